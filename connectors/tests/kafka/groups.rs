//! Members of a group that share partitions: each message is read by one of them, once.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::broker::value;
use crate::reading::{Run, SOON};
use crate::{broker, fresh, numbers, rows_of};

const QUICK: &str = "session.timeout.ms = 6000, heartbeat.interval.ms = 300, topic.metadata.refresh.interval.ms = 500";

fn member(topic: &str, group: &str, options: &str) -> crate::reading::Source {
    numbers(
        broker(),
        topic,
        &format!("group = \"{group}\"\noptions = {{ {QUICK}{options} }}"),
    )
}

/// What a group has committed, by partition.
fn committed(topic: &str, group: &str, partitions: i32) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = broker().client().set("group.id", group).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let list = consumer
        .committed_offsets(list, Duration::from_secs(10))
        .expect("offsets");
    let offset = |offset: Offset| match offset {
        Offset::Offset(offset) => offset,
        _ => -1,
    };
    list.elements()
        .iter()
        .map(|element| (element.partition(), offset(element.offset())))
        .collect()
}

fn write_numbers(topic: &str, partition: i32, from: usize, to: usize) {
    let rows = rows_of(from..to);
    broker().write(topic, partition, rows.iter().map(|row| value(row)));
}

/// Messages come all the while members come and go; none is lost, none is read twice.
fn rebalances_under_load(options: &str) {
    let (topic, group) = (fresh("rebalanced"), fresh("group"));
    broker().create_topic(&topic, 6, &[]);
    let source = member(&topic, &group, options);
    let mut written = 0;
    let mut write_some = || {
        for partition in 0..6 {
            write_numbers(&topic, partition, written, written + 20);
            written += 20;
        }
        written
    };
    let mut runs: Vec<Run> = vec![source.read()];
    let mut gone: Vec<Run> = Vec::new();
    runs[0].acknowledges = false;
    let mut shared = 0;
    for round in 0..5 {
        // What is read is safe only some steps later, as it is in an engine.
        for step in 0..40 {
            if step % 4 == 0 {
                write_some();
            }
            for run in &mut runs {
                run.step();
                if step % 5 == 4 {
                    run.acknowledge();
                }
            }
        }
        match round {
            0 | 2 => {
                let mut run = source.read();
                run.acknowledges = false;
                runs.push(run);
            }
            1 => {
                // It leaves in order, once all it has read is safe.
                let mut run = runs.remove(0);
                run.acknowledge();
                drop(std::mem::replace(&mut run.reader, Box::new(Nothing)));
                gone.push(run);
            }
            _ => shared += runs.iter().filter(|run| !run.rows.is_empty()).count(),
        }
    }
    let count = write_some();
    let deadline = Instant::now() + SOON;
    let read = |runs: &[Run], gone: &[Run]| runs.iter().chain(gone).map(|run| run.rows.len()).sum::<usize>();
    while read(&runs, &gone) < count {
        assert!(Instant::now() < deadline, "{} of {count} were read", read(&runs, &gone));
        for run in &mut runs {
            run.step();
            run.acknowledge();
        }
    }
    for run in &mut runs {
        for _ in 0..10 {
            run.step();
            run.acknowledge();
        }
    }
    let mut all: Vec<String> = runs.iter().chain(&gone).flat_map(|run| run.rows.clone()).collect();
    all.sort();
    let mut expected = rows_of(0..count);
    expected.sort();
    assert!(all == expected, "{} rows of {count}", all.len());
    assert!(shared >= 3, "members did not share the partitions");
    // What is safe is committed, for whoever looks at the lag.
    let deadline = Instant::now() + SOON;
    while committed(&topic, &group, 6).values().sum::<i64>() < count as i64 {
        assert!(Instant::now() < deadline, "{:?}", committed(&topic, &group, 6));
        for run in &mut runs {
            run.step();
            run.acknowledge();
        }
    }
}

/// In the place of a reader that is gone.
struct Nothing;

impl connectors::Reader for Nothing {
    fn read(&mut self, _: i64) -> Result<connectors::Read, connectors::ReadError> {
        Ok(connectors::Read::End)
    }
}

#[test]
fn members_come_and_go_one_partition_at_a_time() {
    rebalances_under_load("");
}

#[test]
fn members_come_and_go_all_partitions_at_once() {
    rebalances_under_load(", partition.assignment.strategy = \"range\"");
}

#[test]
fn members_come_and_go_as_the_broker_decides() {
    // There, the broker tells how often members are to be heard of.
    let (topic, group) = (fresh("decided"), fresh("group"));
    broker().create_topic(&topic, 4, &[]);
    let options = format!("group = \"{group}\"\noptions = {{ group.protocol = \"consumer\" }}");
    let source = numbers(broker(), &topic, &options);
    for partition in 0..4 {
        write_numbers(&topic, partition, 10 * partition as usize, 10 * partition as usize + 10);
    }
    let mut one = source.read();
    one.rows(40);
    let mut other = source.read();
    other.until("partitions", |other| {
        one.step();
        !other.partitions.is_empty()
    });
    for partition in 0..4 {
        write_numbers(
            &topic,
            partition,
            100 + 10 * partition as usize,
            110 + 10 * partition as usize,
        );
    }
    other.until("rows", |other| {
        one.step();
        one.rows.len() + other.rows.len() == 80
    });
    assert!(!other.rows.is_empty());
}

/// One that is not asked for messages for too long loses its partitions, and comes back.
#[test]
fn a_member_that_is_held_up_loses_its_partitions_to_the_others() {
    let (topic, group) = (fresh("held"), fresh("group"));
    broker().create_topic(&topic, 2, &[]);
    let options = format!(
        "group = \"{group}\"\noptions = {{ session.timeout.ms = 1000, heartbeat.interval.ms = 200, \
         max.poll.interval.ms = 1500 }}"
    );
    let source = numbers(broker(), &topic, &options);
    write_numbers(&topic, 0, 0, 5);
    write_numbers(&topic, 1, 5, 10);
    let mut held = source.read();
    held.rows(10);
    held.until("committed", |_| committed(&topic, &group, 2).values().eq(&[5, 5]));
    let mut other = source.read();
    other.until("all partitions", |other| other.partitions.len() == 2);
    write_numbers(&topic, 0, 10, 12);
    other.rows(2);
    // It learns of it, and all is read once.
    let before = held.batches;
    held.until("a partition again", |held| {
        other.step();
        held.batches > before
    });
    write_numbers(&topic, 0, 12, 15);
    write_numbers(&topic, 1, 15, 18);
    held.until("the rest", |held| {
        other.step();
        held.rows.len() + other.rows.len() == 18
    });
    let mut all = [held.rows.clone(), other.rows.clone()].concat();
    all.sort();
    let mut expected = rows_of(0..18);
    expected.sort();
    assert_eq!(all, expected);
}

#[test]
fn members_hear_of_messages_that_are_gone() {
    let (topic, group) = (fresh("gone"), fresh("group"));
    broker().create_topic(&topic, 2, &[]);
    for options in ["", ", partition.assignment.strategy = \"range\""] {
        let source = member(&topic, &group, options);
        write_numbers(&topic, 0, 0, 5);
        write_numbers(&topic, 1, 5, 10);
        let mut run = source.read();
        run.rows(10);
        drop(run.reader);
        write_numbers(&topic, 0, 10, 20);
        write_numbers(&topic, 1, 20, 22);
        let next = run.position[&format!("{topic}/0")];
        broker().delete_records(&topic, 0, next + 7);
        let mut again = source.read_from(&run.position);
        again.rows(5);
        assert_eq!(again.rejected.len(), 1, "{:?}", again.rejected);
        let gone = format!("from offset {next} to {} are gone", next + 6);
        assert!(again.rejected[0].contains(&gone), "{:?}", again.rejected);
        again.until("committed", |again| {
            let logged = |partition| again.position[&format!("{topic}/{partition}")];
            committed(&topic, &group, 2).values().eq(&[logged(0), logged(1)])
        });
    }
}

#[test]
fn only_what_is_safe_is_committed() {
    let (topic, group) = (fresh("safe"), fresh("group"));
    broker().create_topic(&topic, 1, &[]);
    let source = member(&topic, &group, "");
    write_numbers(&topic, 0, 0, 10);
    let mut run = source.read();
    run.acknowledges = false;
    run.rows(10);
    std::thread::sleep(Duration::from_millis(700));
    run.step();
    assert_eq!(committed(&topic, &group, 1)[&0], -1);
    run.acknowledges = true;
    run.until("committed", |_| committed(&topic, &group, 1)[&0] == 10);

    // What was read but never safe is read again by whoever has logged nothing of it.
    run.acknowledges = false;
    write_numbers(&topic, 0, 10, 15);
    run.rows(15);
    drop(run.reader);
    let mut fresh_one = source.read();
    assert_eq!(fresh_one.rows(5), rows_of(10..15));
}

#[test]
fn a_member_goes_on_where_it_has_logged_whatever_was_committed() {
    let (topic, group) = (fresh("ahead"), fresh("group"));
    broker().create_topic(&topic, 1, &[]);
    let source = member(&topic, &group, "");
    write_numbers(&topic, 0, 0, 20);
    let mut run = source.read();
    run.rows(20);
    run.until("committed", |_| committed(&topic, &group, 1)[&0] == 20);
    drop(run.reader);
    let commit = |next: i64| {
        let consumer: BaseConsumer = broker().client().set("group.id", &group).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(next))
            .expect("an offset");
        consumer.commit(&list, CommitMode::Sync).expect("committed");
    };
    // Somebody else's tool sets it back, or on: neither counts for one that has a log.
    write_numbers(&topic, 0, 20, 25);
    commit(5);
    let mut back = source.read_from(&run.position);
    assert_eq!(back.rows(5), rows_of(20..25));
    drop(back.reader);
    commit(25);
    let mut on = source.read_from(&run.position);
    assert_eq!(on.rows(5), rows_of(20..25));
    drop(on.reader);

    // What this member has committed itself does not count either, as when its data was restored from a backup.
    let early = connectors::Position::from_iter(run.position.iter().map(|(name, next)| match name.ends_with("/0") {
        true => (name.clone(), 18),
        false => (name.clone(), *next),
    }));
    let mut restored = source.read_from(&early);
    assert_eq!(restored.rows(7), rows_of(18..25));
    restored.until("committed", |_| committed(&topic, &group, 1)[&0] == 25);
    drop(restored.reader);

    // But where another member went on, this one goes on from there.
    write_numbers(&topic, 0, 25, 30);
    let mut other = source.read();
    assert_eq!(other.rows(5), rows_of(25..30));
    other.until("committed", |_| committed(&topic, &group, 1)[&0] == 30);
    drop(other.reader);
    write_numbers(&topic, 0, 30, 31);
    let mut after = source.read_from(&restored.position);
    assert_eq!(after.rows(1), rows_of(30..31));
}

#[test]
fn a_group_that_is_not_joined_is_only_committed_for() {
    let (topic, group) = (fresh("apart"), fresh("group"));
    broker().create_topic(&topic, 2, &[]);
    write_numbers(&topic, 0, 0, 5);
    write_numbers(&topic, 1, 5, 10);
    let source = numbers(
        broker(),
        &topic,
        &format!("group = \"{group}\"\njoin = false\nstart = \"stored\""),
    );
    let mut one = source.read();
    one.rows(10);
    one.until("committed", |_| committed(&topic, &group, 2).values().eq(&[5, 5]));
    drop(one.reader);
    // Without a log, it begins where the group has stored.
    write_numbers(&topic, 1, 10, 13);
    let mut two = source.read();
    assert_eq!(two.rows(3), rows_of(10..13));
}
