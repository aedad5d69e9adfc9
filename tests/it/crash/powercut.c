/* A disk whose power can be cut, whose calls can fail, and on which a process can die at an exact point.
 *
 * Preloaded into a program, this library watches what it does to the files below POWERCUT_DIR. The page cache
 * survives the death of a process, so a kill alone loses nothing; therefore POWERCUT_JOURNAL holds what a disk
 * would hold: `inodes/N` is the content of inode N as of its last fsync or fdatasync, `folders/N` the names in
 * directory N as of its last fsync. What is not in there is lost in a power cut; the test puts the folder back
 * to it (or to a mixture of it and of what was written since, 4 KiB by 4 KiB, as real disks may).
 *
 * No file is really synced: copying it to the journal is what makes it safe, so a process killed in the middle
 * of a sync leaves a part of it safe. An inode that lost its last name is kept in `graves`, so that its number
 * is not given to another file meanwhile. What writes by a way not known here (a map, io_uring) is never safe,
 * which is noticed, rather than safe too early, which would not be.
 *
 *   POWERCUT_KILL="call:path:n:when"   dies at the n-th such call whose path contains `path`; `when` is before,
 *                                      after, or half (half of the bytes are written, or made safe)
 *   POWERCUT_FAIL="call:path:n:error"  the n-th such call fails: EIO, ENOSPC, or short (half is written);
 *                                      "error+" means all later ones, too
 *   POWERCUT_KILL_WHILE, POWERCUT_FAIL_WHILE  a file: nothing is counted unless it exists
 *   POWERCUT_IGNORE="path"             syncs of such files say yes and do nothing
 *   POWERCUT_SYNC_US="n"               how long a sync takes
 *   POWERCUT_LOG                       a file that gets a line at the begin (B) and end (E) of each call, where one
 *                                      fails (F), and where it dies (K)
 *
 * Calls are open, read, write, truncate, sync, rename, unlink, link, mkdir, or any. Everything goes by raw system
 * calls, so nothing here is called back; nothing runs in a signal handler.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define CHUNK (16 * PAGE)
#define FDS_MAX 65536
#define RANGES_MAX 1024
#define IOV_MAX_HERE 1024

enum when { NEVER, BEFORE, AFTER, HALF, FAILS, SHORT };

/* What is to happen at the n-th call of a kind. */
struct point {
    char call[16];
    char path[256];
    long n;
    enum when when;
    int error;
    int always;
    const char *while_exists;
    _Atomic long seen;
};

/* Which bytes of an inode were written since its last sync; all of it, if this process never synced it. */
struct dirty {
    struct dirty *next;
    ino_t inode;
    int whole;
    int count;
    struct {
        off_t from, to;
    } ranges[RANGES_MAX];
};

static char folder[PATH_MAX];
static size_t folder_length;
static char journal[PATH_MAX];
static struct point kill_point, fail_point;
static const char *ignored;
static long sync_us;
static int log_fd = -1;
static struct dirty *dirty_files;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* By descriptor: not looked at yet, of no interest, or below the folder. */
enum { UNKNOWN, FOREIGN, OURS };
static _Atomic unsigned char kinds[FDS_MAX];

static void read_point(struct point *point, const char *text, const char *while_exists) {
    char when[16] = "";
    if (!text)
        return;
    /* A path may be empty, which means every path. */
    const char *first = strchr(text, ':'), *second = first ? strchr(first + 1, ':') : NULL;
    if (!second || first - text >= (long)sizeof point->call || second - first > (long)sizeof point->path ||
        sscanf(second + 1, "%ld:%15s", &point->n, when) != 2) {
        dprintf(2, "powercut: \"%s\" is not call:path:n:what\n", text);
        _exit(97);
    }
    memcpy(point->call, text, first - text);
    memcpy(point->path, first + 1, second - first - 1);
    size_t length = strlen(when);
    if (length && when[length - 1] == '+') {
        point->always = 1;
        when[length - 1] = 0;
    }
    if (!strcmp(when, "before"))
        point->when = BEFORE;
    else if (!strcmp(when, "after"))
        point->when = AFTER;
    else if (!strcmp(when, "half"))
        point->when = HALF;
    else if (!strcmp(when, "short"))
        point->when = SHORT;
    else {
        point->when = FAILS;
        point->error = !strcmp(when, "ENOSPC") ? ENOSPC : EIO;
    }
    point->while_exists = while_exists;
}

__attribute__((constructor)) static void start(void) {
    const char *below = getenv("POWERCUT_DIR"), *kept = getenv("POWERCUT_JOURNAL"), *log = getenv("POWERCUT_LOG");
    const char *slow = getenv("POWERCUT_SYNC_US");
    if (!below || !kept)
        return;
    ignored = getenv("POWERCUT_IGNORE");
    sync_us = slow ? atol(slow) : 0;
    read_point(&kill_point, getenv("POWERCUT_KILL"), getenv("POWERCUT_KILL_WHILE"));
    read_point(&fail_point, getenv("POWERCUT_FAIL"), getenv("POWERCUT_FAIL_WHILE"));
    if (log)
        log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    snprintf(journal, sizeof journal, "%s", kept);
    snprintf(folder, sizeof folder, "%s", below);
    folder_length = strlen(folder);
}

static int is_below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) &&
           (path[folder_length] == '/' || path[folder_length] == 0);
}

/* Writes the absolute path of a name, and tells whether it is below the folder. */
static int below(int at, const char *name, char *path) {
    if (!folder_length || !name)
        return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char link[64];
        if (at == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
        if (length < 0)
            return 0;
        snprintf(path + length, PATH_MAX - length, "/%s", name);
    }
    return is_below(path);
}

/* Tells whether a descriptor is of a file below the folder, and its path. */
static int is_ours(int fd, char *path) {
    if (!folder_length || fd < 0)
        return 0;
    int known = fd < FDS_MAX ? atomic_load(&kinds[fd]) : UNKNOWN;
    if (known == FOREIGN)
        return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    int found = is_below(path);
    if (fd < FDS_MAX)
        atomic_store(&kinds[fd], found ? OURS : FOREIGN);
    return found;
}

static void note_text(char what, const char *call, const char *path, const char *detail) {
    char line[2 * PATH_MAX + 128];
    if (log_fd < 0)
        return;
    const char *shown = is_below(path) && path[folder_length] ? path + folder_length + 1 : path;
    int length = snprintf(line, sizeof line, "%c %ld %s %s %s\n", what, syscall(SYS_gettid), call, detail, shown);
    /* Whoever cannot write the log has lost a line of it, and nothing else. */
    if (syscall(SYS_write, log_fd, line, (size_t)length) < 0)
        return;
}

static void note(char what, const char *call, const char *path, long detail) {
    char text[32];
    snprintf(text, sizeof text, "%ld", detail);
    note_text(what, call, path, text);
}

static void die(const char *call, const char *path) {
    static const char *const WHEN[] = {"never", "before", "after", "half"};
    note_text('K', call, path, WHEN[kill_point.when]);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

static int reached(struct point *point, const char *call, const char *path) {
    if (point->when == NEVER || (strcmp(point->call, "any") && strcmp(point->call, call)) ||
        !strstr(path + folder_length, point->path))
        return 0;
    if (point->while_exists && syscall(SYS_faccessat, AT_FDCWD, point->while_exists, F_OK))
        return 0;
    long seen = atomic_fetch_add(&point->seen, 1) + 1;
    return point->always ? seen >= point->n : seen == point->n;
}

/* What becomes of one call. */
struct turn {
    const char *call;
    const char *path;
    enum when dies;
    enum when fails;
};

static struct turn begin(const char *call, const char *path, long detail) {
    struct turn turn = {call, path, NEVER, NEVER};
    note('B', call, path, detail);
    if (reached(&kill_point, call, path)) {
        if (kill_point.when == BEFORE)
            die(call, path);
        turn.dies = kill_point.when;
    }
    if (reached(&fail_point, call, path)) {
        note('F', call, path, atomic_load(&fail_point.seen));
        turn.fails = fail_point.when;
    }
    return turn;
}

static void end(struct turn *turn) {
    int error = errno;
    if (turn->dies != NEVER)
        die(turn->call, turn->path);
    note('E', turn->call, turn->path, 0);
    errno = error;
}

/* Where an inode or a directory stands in the journal. */
static void place(char *path, const char *kind, ino_t inode) {
    snprintf(path, PATH_MAX + 64, "%s/%s/%lu", journal, kind, (unsigned long)inode);
}

static struct dirty *dirty_of(ino_t inode) {
    for (struct dirty *file = dirty_files; file; file = file->next)
        if (file->inode == inode)
            return file;
    struct dirty *file = calloc(1, sizeof *file);
    if (!file)
        abort();
    file->inode = inode;
    file->whole = 1;
    file->next = dirty_files;
    dirty_files = file;
    return file;
}

static void written(int fd, off_t from, off_t to) {
    struct stat is;
    if (from >= to || fstat(fd, &is))
        return;
    pthread_mutex_lock(&lock);
    struct dirty *file = dirty_of(is.st_ino);
    if (file->count && file->ranges[file->count - 1].to == from) {
        file->ranges[file->count - 1].to = to;
    } else if (file->count == RANGES_MAX) {
        file->whole = 1;
    } else {
        file->ranges[file->count].from = from;
        file->ranges[file->count++].to = to;
    }
    pthread_mutex_unlock(&lock);
}

static void all_written(int fd) {
    struct stat is;
    if (fstat(fd, &is))
        return;
    pthread_mutex_lock(&lock);
    dirty_of(is.st_ino)->whole = 1;
    pthread_mutex_unlock(&lock);
}

/* Copies the pages of a range that differ; returns how many were copied, and stops after `most`. */
static long copy_range(int from, int to, off_t begins, off_t ends, long most) {
    static char here[CHUNK], there[CHUNK];
    long copied = 0;
    for (off_t at = begins / PAGE * PAGE; at < ends; at += CHUNK) {
        ssize_t has = syscall(SYS_pread64, from, here, (size_t)CHUNK, at);
        if (has <= 0)
            break;
        ssize_t had = syscall(SYS_pread64, to, there, (size_t)CHUNK, at);
        for (ssize_t page = 0; page < has && at + page < ends; page += PAGE) {
            size_t length = has - page < PAGE ? has - page : PAGE;
            if (had >= page + (ssize_t)length && !memcmp(here + page, there + page, length))
                continue;
            if (copied == most)
                return copied;
            if (syscall(SYS_pwrite64, to, here + page, length, at + page) != (ssize_t)length) {
                dprintf(2, "powercut: could not write the journal: errno %d\n", errno);
                _exit(97);
            }
            copied++;
        }
    }
    return copied;
}

static int reopened(int fd, int flags) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return syscall(SYS_openat, AT_FDCWD, link, flags | O_CLOEXEC, 0);
}

/* Makes the names in a directory safe. */
static void harden_names(int fd, ino_t inode) {
    char path[PATH_MAX + 64], made[PATH_MAX + 80], entries[8192], line[NAME_MAX + 64];
    int names = reopened(fd, O_RDONLY | O_DIRECTORY);
    place(path, "folders", inode);
    snprintf(made, sizeof made, "%s.tmp", path);
    int to = syscall(SYS_openat, AT_FDCWD, made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (names < 0 || to < 0) {
        dprintf(2, "powercut: could not note the names of a folder: errno %d\n", errno);
        _exit(97);
    }
    long length;
    while ((length = syscall(SYS_getdents64, names, entries, sizeof entries)) > 0) {
        for (long at = 0; at < length;) {
            struct dirent64 *entry = (struct dirent64 *)(entries + at);
            at += entry->d_reclen;
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                continue;
            int size = snprintf(line, sizeof line, "%c %lu %s\n", entry->d_type == DT_DIR ? 'd' : 'f',
                                (unsigned long)entry->d_ino, entry->d_name);
            if (syscall(SYS_write, to, line, (size_t)size) != size)
                _exit(97);
        }
    }
    syscall(SYS_close, names);
    syscall(SYS_close, to);
    syscall(SYS_renameat, AT_FDCWD, made, AT_FDCWD, path);
}

/* Makes a file's bytes and length safe; of half of its pages, if this process is to die halfway. */
static void harden(int fd, struct turn *turn) {
    struct stat is;
    char path[PATH_MAX + 64];
    if (fstat(fd, &is))
        return;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(is.st_mode)) {
        if (turn->dies != HALF)
            harden_names(fd, is.st_ino);
        pthread_mutex_unlock(&lock);
        return;
    }
    struct dirty *file = dirty_of(is.st_ino);
    place(path, "inodes", is.st_ino);
    int from = reopened(fd, O_RDONLY);
    int to = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (from < 0 || to < 0) {
        dprintf(2, "powercut: could not keep a file: errno %d\n", errno);
        _exit(97);
    }
    long most = LONG_MAX;
    if (turn->dies == HALF) {
        off_t bytes = 0;
        for (int range = 0; range < file->count; range++)
            bytes += file->ranges[range].to - file->ranges[range].from;
        most = (file->whole ? is.st_size : bytes) / PAGE / 2;
    }
    if (syscall(SYS_ftruncate, to, is.st_size))
        _exit(97);
    if (file->whole) {
        copy_range(from, to, 0, is.st_size, most);
    } else {
        for (int range = 0; range < file->count && most > 0; range++)
            most -= copy_range(from, to, file->ranges[range].from, file->ranges[range].to, most);
    }
    if (turn->dies != HALF)
        file->count = file->whole = 0;
    syscall(SYS_close, from);
    syscall(SYS_close, to);
    pthread_mutex_unlock(&lock);
}

/* Forgets what was written: after a failed sync the kernel takes these pages for clean, and never writes them. */
static void forget(int fd) {
    struct stat is;
    if (fstat(fd, &is))
        return;
    pthread_mutex_lock(&lock);
    struct dirty *file = dirty_of(is.st_ino);
    file->count = file->whole = 0;
    pthread_mutex_unlock(&lock);
}

/* Keeps an inode that is about to lose a name. */
static void bury(const char *path) {
    struct stat is;
    char grave[PATH_MAX + 64];
    if (fstatat(AT_FDCWD, path, &is, AT_SYMLINK_NOFOLLOW) || !S_ISREG(is.st_mode))
        return;
    place(grave, "graves", is.st_ino);
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, grave, 0) && errno != EEXIST) {
        dprintf(2, "powercut: could not keep %s: errno %d\n", path, errno);
        _exit(97);
    }
}

static int failed(struct turn *turn) {
    if (turn->fails != FAILS)
        return 0;
    errno = fail_point.error;
    return 1;
}

static int synced(int fd, long number) {
    char path[PATH_MAX];
    if (!is_ours(fd, path))
        return syscall(number, fd);
    struct turn turn = begin("sync", path, 0);
    if (sync_us) {
        struct timespec wait = {sync_us / 1000000, sync_us % 1000000 * 1000};
        syscall(SYS_nanosleep, &wait, NULL);
    }
    int result = 0;
    if (turn.fails != NEVER) {
        forget(fd);
        errno = turn.fails == SHORT ? EIO : fail_point.error;
        result = -1;
    } else if (!ignored || !strstr(path + folder_length, ignored)) {
        harden(fd, &turn);
    }
    end(&turn);
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* Returns the first `length` bytes of some pieces. */
static int cut_pieces(const struct iovec *pieces, int count, size_t length, struct iovec *cut) {
    int used = 0;
    for (; used < count && used < IOV_MAX_HERE && length > 0; used++) {
        cut[used] = pieces[used];
        if (cut[used].iov_len > length)
            cut[used].iov_len = length;
        length -= cut[used].iov_len;
    }
    return used;
}

/* Writes pieces at an offset, or where the file stands (-1). */
static ssize_t write_pieces(int fd, const struct iovec *pieces, int count, off_t offset) {
    char path[PATH_MAX];
    if (!is_ours(fd, path))
        return offset < 0 ? syscall(SYS_writev, fd, pieces, count) : syscall(SYS_pwritev, fd, pieces, count, offset, 0);
    size_t length = 0;
    for (int piece = 0; piece < count; piece++)
        length += pieces[piece].iov_len;
    struct turn turn = begin("write", path, (long)length);
    ssize_t result = -1;
    if (!failed(&turn)) {
        struct iovec cut[IOV_MAX_HERE];
        size_t wanted = turn.dies == HALF || (turn.fails == SHORT && length > 1) ? length / 2 : length;
        int used = cut_pieces(pieces, count, wanted, cut);
        result = offset < 0 ? syscall(SYS_writev, fd, cut, used) : syscall(SYS_pwritev, fd, cut, used, offset, 0);
        int error = errno;
        if (result > 0) {
            off_t to = offset < 0 ? syscall(SYS_lseek, fd, 0, SEEK_CUR) : offset + result;
            written(fd, to - result, to);
            if (syscall(SYS_fcntl, fd, F_GETFL) & O_DSYNC)
                harden(fd, &turn);
        }
        errno = error;
    }
    end(&turn);
    return result;
}

static ssize_t write_bytes(int fd, const void *bytes, size_t length, off_t offset) {
    struct iovec piece = {(void *)bytes, length};
    return write_pieces(fd, &piece, 1, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[PATH_MAX];
    if (!is_ours(fd, path))
        return syscall(SYS_write, fd, bytes, length);
    return write_bytes(fd, bytes, length, -1);
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return write_bytes(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return write_bytes(fd, bytes, length, offset); }
ssize_t writev(int fd, const struct iovec *pieces, int count) { return write_pieces(fd, pieces, count, -1); }
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) { return write_pieces(fd, pieces, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) { return write_pieces(fd, pieces, count, offset); }

/* Reads count, so that a process can die while it only reads, and may fail. */
#define READS(declared, number, ...)                                                                                   \
    declared {                                                                                                         \
        char path[PATH_MAX];                                                                                           \
        if (!is_ours(fd, path))                                                                                        \
            return syscall(number, __VA_ARGS__);                                                                       \
        struct turn turn = begin("read", path, (long)length);                                                          \
        ssize_t result = turn.fails != NEVER ? -1 : syscall(number, __VA_ARGS__);                                      \
        if (turn.fails != NEVER)                                                                                       \
            errno = EIO;                                                                                               \
        end(&turn);                                                                                                    \
        return result;                                                                                                 \
    }
READS(ssize_t read(int fd, void *bytes, size_t length), SYS_read, fd, bytes, length)
READS(ssize_t pread(int fd, void *bytes, size_t length, off_t offset), SYS_pread64, fd, bytes, length, offset)
READS(ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset), SYS_pread64, fd, bytes, length, offset)

/* Whatever else changes a file: all of it is looked at in the next sync. */
#define CHANGES(declared, file, ...)                                                                                   \
    declared {                                                                                                         \
        char path[PATH_MAX];                                                                                           \
        if (!is_ours(file, path))                                                                                      \
            return syscall(__VA_ARGS__);                                                                               \
        struct turn turn = begin("truncate", path, (long)length);                                                      \
        long result = failed(&turn) ? -1 : syscall(__VA_ARGS__);                                                       \
        all_written(file);                                                                                             \
        end(&turn);                                                                                                    \
        return result;                                                                                                 \
    }
CHANGES(int ftruncate(int fd, off_t length), fd, SYS_ftruncate, fd, length)
CHANGES(int ftruncate64(int fd, off64_t length), fd, SYS_ftruncate, fd, length)
CHANGES(int fallocate(int fd, int mode, off_t from, off_t length), fd, SYS_fallocate, fd, mode, from, length)
CHANGES(int fallocate64(int fd, int mode, off64_t from, off64_t length), fd, SYS_fallocate, fd, mode, from, length)
CHANGES(ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags), out,
        SYS_copy_file_range, in, from, out, to, length, flags)
CHANGES(ssize_t sendfile(int out, int in, off_t *from, size_t length), out, SYS_sendfile, out, in, from, length)
CHANGES(ssize_t sendfile64(int out, int in, off64_t *from, size_t length), out, SYS_sendfile, out, in, from, length)

int posix_fallocate(int fd, off_t from, off_t length) { return fallocate(fd, 0, from, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t from, off64_t length) { return fallocate(fd, 0, from, length) ? errno : 0; }

static int opened(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int ours = below(at, name, path);
    struct turn turn = {0};
    int fd = -1;
    if (ours)
        turn = begin("open", path, flags);
    if (!ours || !failed(&turn))
        fd = syscall(SYS_openat, at, name, flags, mode);
    if (fd >= 0 && fd < FDS_MAX)
        atomic_store(&kinds[fd], UNKNOWN);
    if (ours && fd >= 0 && flags & O_TRUNC)
        all_written(fd);
    if (ours)
        end(&turn);
    return fd;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *name, int flags, ...) {
    MODE(flags)
    return opened(AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    MODE(flags)
    return opened(AT_FDCWD, name, flags, mode);
}
int openat(int at, const char *name, int flags, ...) {
    MODE(flags)
    return opened(at, name, flags, mode);
}
int openat64(int at, const char *name, int flags, ...) {
    MODE(flags)
    return opened(at, name, flags, mode);
}
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static void forget_descriptor(int fd) {
    if (fd >= 0 && fd < FDS_MAX)
        atomic_store(&kinds[fd], UNKNOWN);
}

int close(int fd) {
    forget_descriptor(fd);
    return syscall(SYS_close, fd);
}
int dup2(int fd, int other) {
    forget_descriptor(other);
    return syscall(SYS_dup2, fd, other);
}
int dup3(int fd, int other, int flags) {
    forget_descriptor(other);
    return syscall(SYS_dup3, fd, other, flags);
}

static int renamed(int at, const char *name, int to_at, const char *to_name, unsigned flags) {
    char from[PATH_MAX], to[PATH_MAX];
    /* Both are asked, so that both paths are known. */
    int ours = below(at, name, from);
    ours |= below(to_at, to_name, to);
    if (!ours)
        return syscall(SYS_renameat2, at, name, to_at, to_name, flags);
    struct turn turn = begin("rename", to, 0);
    int result = -1;
    if (!failed(&turn) && turn.dies != HALF) {
        bury(to);
        result = syscall(SYS_renameat2, at, name, to_at, to_name, flags);
    }
    end(&turn);
    return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int at, const char *from, int to_at, const char *to) { return renamed(at, from, to_at, to, 0); }
int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags) {
    return renamed(at, from, to_at, to, flags);
}

/* Takes an empty directory away by keeping it: its number must not come again either. */
static int bury_folder(const char *path) {
    struct stat is;
    char grave[PATH_MAX + 64], entries[1024];
    if (fstatat(AT_FDCWD, path, &is, AT_SYMLINK_NOFOLLOW))
        return -1;
    int names = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (names < 0)
        return -1;
    long length, count = 0;
    while ((length = syscall(SYS_getdents64, names, entries, sizeof entries)) > 0)
        for (long at = 0; at < length; count++)
            at += ((struct dirent64 *)(entries + at))->d_reclen;
    syscall(SYS_close, names);
    if (count > 2) {
        errno = ENOTEMPTY;
        return -1;
    }
    place(grave, "graves", is.st_ino);
    return syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, grave, 0);
}

static int unlinked(int at, const char *name, int flags) {
    char path[PATH_MAX];
    if (!below(at, name, path))
        return syscall(SYS_unlinkat, at, name, flags);
    struct turn turn = begin("unlink", path, 0);
    int result = -1;
    if (!failed(&turn) && turn.dies != HALF) {
        if (flags & AT_REMOVEDIR) {
            result = bury_folder(path);
        } else {
            bury(path);
            result = syscall(SYS_unlinkat, at, name, flags);
        }
    }
    end(&turn);
    return result;
}
int unlink(const char *name) { return unlinked(AT_FDCWD, name, 0); }
int unlinkat(int at, const char *name, int flags) { return unlinked(at, name, flags); }
int rmdir(const char *name) { return unlinked(AT_FDCWD, name, AT_REMOVEDIR); }

int linkat(int at, const char *name, int to_at, const char *to_name, int flags) {
    char path[PATH_MAX];
    if (!below(to_at, to_name, path))
        return syscall(SYS_linkat, at, name, to_at, to_name, flags);
    struct turn turn = begin("link", path, 0);
    int result = failed(&turn) || turn.dies == HALF ? -1 : syscall(SYS_linkat, at, name, to_at, to_name, flags);
    end(&turn);
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int mkdirat(int at, const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!below(at, name, path))
        return syscall(SYS_mkdirat, at, name, mode);
    struct turn turn = begin("mkdir", path, 0);
    int result = failed(&turn) || turn.dies == HALF ? -1 : syscall(SYS_mkdirat, at, name, mode);
    end(&turn);
    return result;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
