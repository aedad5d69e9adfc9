//! A real broker: Apache Kafka, fetched once by Maven, started on free ports, killed and started again.
//!
//! It ends with the program that started it, however that ends: it is watched by a shell whose input is held here.
#![allow(dead_code, reason = "not every test binary uses all of it")]
use std::collections::hash_map::RandomState;
use std::fs;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const VERSION: &str = "4.1.0";

/// The user that may use the listener with passwords, and the password.
pub const USER: (&str, &str) = ("alice", "alice-secret");

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sangam</groupId><artifactId>kafka-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;

/// A broker that runs in a folder of its own.
pub struct Broker {
    folder: tempfile::TempDir,
    ports: Ports,
    running: Option<Running>,
}

struct Ports {
    plain: u16,
    controller: u16,
    password: u16,
    tls: u16,
}

struct Running {
    /// The shell that ends the broker when its input ends.
    watcher: Child,
    pid: u32,
}

impl Broker {
    /// Starts one; fetches it first, where it is not there yet.
    pub fn start() -> Broker {
        let folder = tempfile::tempdir().expect("a folder for the broker");
        let [plain, controller, password, tls] = free_ports();
        let mut broker = Broker {
            folder,
            ports: Ports {
                plain,
                controller,
                password,
                tls,
            },
            running: None,
        };
        fs::write(broker.properties(), broker.settings()).expect("writing the broker's settings");
        let properties = broker.properties().display().to_string();
        let format = ["format", "-t", &cluster_id(), "-c", &properties, "--standalone"];
        run(java().arg("kafka.tools.StorageTool").args(format));
        broker.restart();
        broker
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn properties(&self) -> PathBuf {
        self.folder().join("server.properties")
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// Where clients connect that bring a password.
    pub fn password_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.password)
    }

    /// Where clients connect by TLS.
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.tls)
    }

    /// The certificate that vouches for the broker.
    pub fn certificate(&self) -> PathBuf {
        libraries().join("ca.pem")
    }

    fn settings(&self) -> String {
        let Ports {
            plain,
            controller,
            password,
            tls,
        } = self.ports;
        let (user, secret) = USER;
        let data = self.folder().join("data").display().to_string();
        let store = libraries().join("broker.p12").display().to_string();
        format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},SASL_PLAINTEXT://127.0.0.1:{password},SSL://127.0.0.1:{tls}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{password},SSL://127.0.0.1:{tls}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{secret}\";
ssl.keystore.location={store}
ssl.keystore.password=keystore
ssl.keystore.type=PKCS12
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
log.initial.task.delay.ms=200
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=4194304
"
        )
    }

    /// Starts it (again) with what it has stored.
    pub fn restart(&mut self) {
        self.kill();
        let command = java();
        let mut line: Vec<String> = command
            .get_args()
            .map(|argument| format!("'{}'", argument.to_string_lossy()))
            .collect();
        line.push(format!("kafka.Kafka '{}'", self.properties().display()));
        let log = self.folder().join("broker.log");
        let script = format!(
            "java {} >>'{}' 2>&1 </dev/null & echo $!; cat >/dev/null; kill -9 $!",
            line.join(" "),
            log.display()
        );
        let mut watcher = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting a shell");
        let mut pid = String::new();
        let output = watcher.stdout.take().expect("the shell's output");
        BufReader::new(output)
            .read_line(&mut pid)
            .expect("the broker's process id");
        let pid = pid.trim().parse().expect("the broker's process id");
        self.running = Some(Running { watcher, pid });
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.topics().is_none() {
            assert!(
                Instant::now() < deadline,
                "the broker does not answer: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it was started and not ended since.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = Command::new("kill")
                .args(["-9", &running.pid.to_string()])
                .stderr(Stdio::null())
                .status();
            drop(running.watcher.stdin.take());
            let _ = running.watcher.wait();
        }
    }

    /// A client's declaration.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.address())
            .set("reconnect.backoff.max.ms", "500");
        client
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an administrator")
    }

    /// The names of the topics, if it answers.
    fn topics(&self) -> Option<Vec<String>> {
        TcpStream::connect(self.address()).ok()?;
        let admin = self.admin();
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(2)).ok()?;
        if metadata.brokers().is_empty() {
            return None;
        }
        Some(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// Makes a topic, and waits until it is there.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let made = block_on(self.admin().create_topics([&topic], &options())).expect("asking for a topic");
        assert!(made.iter().all(Result::is_ok), "topic {name}: {made:?}");
        self.wait_for_topic(name, true);
    }

    /// Deletes a topic, and waits until it is gone.
    pub fn delete_topic(&self, name: &str) {
        let gone = block_on(self.admin().delete_topics(&[name], &options())).expect("asking to delete a topic");
        assert!(gone.iter().all(Result::is_ok), "topic {name}: {gone:?}");
        self.wait_for_topic(name, false);
    }

    fn wait_for_topic(&self, name: &str, there: bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self
            .topics()
            .is_none_or(|topics| topics.iter().any(|topic| topic == name) != there)
        {
            assert!(Instant::now() < deadline, "topic {name} is not as it should be");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives a topic more partitions.
    pub fn grow_topic(&self, name: &str, partitions: usize) {
        let grown = block_on(
            self.admin()
                .create_partitions([&NewPartitions::new(name, partitions)], &options()),
        )
        .expect("asking for partitions");
        assert!(grown.iter().all(Result::is_ok), "topic {name}: {grown:?}");
    }

    /// Deletes the messages of a partition that come before an offset.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before))
            .expect("an offset");
        block_on(self.admin().delete_records(&list, &options())).expect("deleting messages");
    }

    /// Writes messages to a partition, and waits until they are stored.
    pub fn write<'a>(&self, topic: &str, partition: i32, messages: impl IntoIterator<Item = Message<'a>>) {
        let producer: BaseProducer = self.client().set("acks", "all").create().expect("a producer");
        write(&producer, topic, partition, messages);
        producer.flush(Duration::from_secs(30)).expect("messages are stored");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message to be written.
#[derive(Debug, Clone, Default)]
pub struct Message<'a> {
    pub key: Option<&'a str>,
    pub value: Option<&'a str>,
    /// Its time in milliseconds since 1970, or now.
    pub time: Option<i64>,
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// A message of which only the value is told.
pub fn value(value: &str) -> Message<'_> {
    Message {
        value: Some(value),
        ..Message::default()
    }
}

/// Hands messages to a producer.
pub fn write<'a>(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    messages: impl IntoIterator<Item = Message<'a>>,
) {
    for message in messages {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(partition);
        if let Some(key) = message.key {
            record = record.key(key);
        }
        if let Some(value) = message.value {
            record = record.payload(value);
        }
        if let Some(time) = message.time {
            record = record.timestamp(time);
        }
        if !message.headers.is_empty() {
            let headers = message
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: *value })
                });
            record = record.headers(headers);
        }
        while let Err((error, again)) = producer.send(record) {
            assert!(error.to_string().contains("Queue full"), "{error}");
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)))
}

/// Four ports that were free a moment ago.
fn free_ports() -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// Sixteen bytes in the letters that Kafka writes them with.
fn cluster_id() -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |_| {
        let random = RandomState::new().build_hasher().finish();
        char::from(LETTERS[random as usize % LETTERS.len()])
    };
    // The last one holds two bits only.
    (0..21).map(letter).chain(['A']).collect()
}

/// A command of Java with the broker's classes.
fn java() -> Command {
    let mut command = Command::new("java");
    let classes = libraries().join("*").display().to_string();
    let quick = [
        "-Xmx400m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
    ];
    command
        .args(quick)
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &classes]);
    command
}

/// Where the broker's libraries are, once they are fetched.
fn libraries() -> PathBuf {
    let cache = std::env::var_os("SANGAM_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME, or SANGAM_CACHE");
        PathBuf::from(home).join(".cache/sangam")
    });
    // The second form of this folder, which holds a certificate, too.
    let folder = cache.join(format!("kafka-{VERSION}-2"));
    if folder.is_dir() {
        return folder;
    }
    fs::create_dir_all(&cache).expect("a folder for what is fetched");
    let fresh = tempfile::tempdir_in(&cache).expect("a folder for what is fetched");
    let pom = fresh.path().join("pom.xml");
    let mut file = fs::File::create(&pom).expect("pom.xml");
    file.write_all(POM.replace("VERSION", VERSION).as_bytes())
        .expect("pom.xml");
    let jars = fresh.path().join("jars");
    run(Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", jars.display())));
    make_certificate(&jars);
    // Somebody else may have been first, which is as good.
    if let Err(error) = fs::rename(&jars, &folder) {
        assert!(folder.is_dir(), "{}: {error}", folder.display());
    }
    folder
}

/// Makes a certificate that vouches for itself, and the store that the broker reads its key from.
fn make_certificate(folder: &Path) {
    let store = folder.join("broker.p12").display().to_string();
    let certificate = folder.join("ca.pem").display().to_string();
    let common = [
        "-storetype",
        "PKCS12",
        "-keystore",
        &store,
        "-storepass",
        "keystore",
        "-alias",
        "broker",
    ];
    let key = ["-keyalg", "EC", "-validity", "3650", "-dname", "CN=localhost"];
    let hosts = ["-ext", "san=ip:127.0.0.1,dns:localhost"];
    run(Command::new("keytool")
        .arg("-genkeypair")
        .args(common)
        .args(key)
        .args(hosts));
    run(Command::new("keytool")
        .args(["-exportcert", "-rfc", "-file", &certificate])
        .args(common));
}

/// Runs a command to its end.
fn run(command: &mut Command) {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{program} cannot be started ({error}); on Debian, `apt-get install maven openjdk-17-jdk-headless`")
    });
    assert!(
        output.status.success(),
        "{program}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for what an administrator asks for.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
