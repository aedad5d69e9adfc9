//! Messages that are gone, and topics that are not what they were: nothing is passed over in silence.
use crate::broker::value;
use crate::{broker, fresh, numbers, rows_of};

fn write_numbers(topic: &str, from: usize, to: usize) {
    let rows = rows_of(from..to);
    broker().write(topic, 0, rows.iter().map(|row| value(row)));
}

/// Asks for what there is often, so that tests are short.
const QUICK: &str = "options = { topic.metadata.refresh.interval.ms = 300 }";

#[test]
fn messages_that_are_gone_before_they_were_read_are_told() {
    let topic = fresh("retention");
    broker().create_topic(&topic, 1, &[]);
    write_numbers(&topic, 0, 10);
    let source = numbers(broker(), &topic, QUICK);
    let mut run = source.read();
    run.rows(10);
    drop(run.reader);

    // While it was down.
    write_numbers(&topic, 10, 30);
    broker().delete_records(&topic, 0, 25);
    let mut again = source.read_from(&run.position);
    assert_eq!(again.rows(5), rows_of(25..30));
    let gone = "messages of TOPIC/0 from offset 10 to 24 are gone, by retention or deleted, before they were read";
    assert_eq!(again.rejected, [gone.replace("TOPIC", &topic)]);

    // It is told once, and goes on from there.
    drop(again.reader);
    write_numbers(&topic, 30, 32);
    let mut third = source.read_from(&again.position);
    assert_eq!(third.rows(2), rows_of(30..32));
    assert_eq!(third.rejected, Vec::<String>::new());
}

#[test]
fn messages_that_are_deleted_beside_others_are_told() {
    let topic = fresh("deleted");
    broker().create_topic(&topic, 3, &[]);
    let source = numbers(broker(), &topic, QUICK);
    for partition in 0..3 {
        let rows = rows_of([10 * partition as usize]);
        broker().write(&topic, partition, [value(&rows[0])]);
    }
    let mut run = source.read();
    run.rows(3);
    drop(run.reader);
    for partition in 0..3 {
        let rows = rows_of((1..5).map(|n| 10 * partition as usize + n));
        broker().write(&topic, partition, rows.iter().map(|row| value(row)));
    }
    broker().delete_records(&topic, 1, 3);
    broker().delete_records(&topic, 2, 5);
    let mut again = source.read_from(&run.position);
    again.until("letters and rows", |run| run.rejected.len() == 2 && run.rows.len() == 6);
    let mut expected = rows_of([1, 2, 3, 4, 13, 14]);
    expected.sort();
    assert_eq!(again.sorted(), expected);
    again.rejected.sort();
    let gone = |partition: i32, to: i32| {
        format!(
            "messages of {topic}/{partition} from offset 1 to {to} are gone, by retention or deleted, before they were read"
        )
    };
    assert_eq!(again.rejected, [gone(1, 2), gone(2, 4)]);
}

fn recreate(topic: &str) {
    broker().delete_topic(topic);
    // The name is free only once the broker has put the old one away.
    broker().create_topic(topic, 1, &[]);
}

#[test]
fn a_topic_that_is_created_anew_is_read_from_its_start() {
    let topic = fresh("recreated");
    broker().create_topic(&topic, 1, &[]);
    write_numbers(&topic, 0, 10);
    let source = numbers(broker(), &topic, QUICK);
    let mut run = source.read();
    run.rows(10);
    // With fewer messages than were read of the old one, and then with more.
    recreate(&topic);
    write_numbers(&topic, 100, 103);
    assert_eq!(run.rows(13)[10..], rows_of(100..103));
    assert_eq!(run.rejected.len(), 1, "{:?}", run.rejected);
    assert!(run.rejected[0].contains("anew"), "{:?}", run.rejected);
    recreate(&topic);
    write_numbers(&topic, 200, 220);
    assert_eq!(run.rows(33)[13..], rows_of(200..220));
    assert_eq!(run.rejected.len(), 2, "{:?}", run.rejected);
    let anew = "the topic of TOPIC/0 was deleted and created anew: messages of the old one from offset 3 on are gone, if \
                there were any; reading goes on at the first message of the new one, offset 0";
    assert_eq!(run.rejected[1], anew.replace("TOPIC", &topic));

    // While it was down, with more messages than were read of the old one: offsets alone would tell nothing.
    drop(run.reader);
    recreate(&topic);
    write_numbers(&topic, 300, 350);
    let mut again = source.read_from(&run.position);
    assert_eq!(again.rows(50), rows_of(300..350));
    assert_eq!(again.rejected.len(), 1, "{:?}", again.rejected);
    assert_eq!(
        again.rejected[0],
        anew.replace("TOPIC", &topic).replace("offset 3 ", "offset 20 ")
    );

    // It is the new one from now on.
    drop(again.reader);
    let mut third = source.read_from(&again.position);
    write_numbers(&topic, 350, 351);
    assert_eq!(third.rows(1), rows_of(350..351));
    assert_eq!(third.rejected, Vec::<String>::new());
}

#[test]
fn a_topic_that_is_created_anew_with_fewer_partitions() {
    let topic = fresh("fewer");
    broker().create_topic(&topic, 3, &[]);
    let source = numbers(broker(), &topic, QUICK);
    for partition in 0..3 {
        let rows = rows_of([partition as usize]);
        broker().write(&topic, partition, [value(&rows[0])]);
    }
    let mut run = source.read();
    run.rows(3);
    recreate(&topic);
    write_numbers(&topic, 100, 103);
    run.until("letters and rows", |run| run.rejected.len() == 3 && run.rows.len() == 6);
    assert_eq!(run.rows[3..], rows_of(100..103));
    run.rejected.sort();
    for partition in 1..3 {
        let gone = format!("{topic}/{partition} is there no more, since its topic was created anew with 1 partitions");
        assert!(run.rejected[partition - 1].starts_with(&gone), "{:?}", run.rejected);
    }
    // That is told once, too.
    drop(run.reader);
    write_numbers(&topic, 103, 104);
    let mut again = source.read_from(&run.position);
    assert_eq!(again.rows(1), rows_of([103]));
    assert_eq!(again.rejected, Vec::<String>::new());
}

#[test]
fn a_topic_that_is_not_there_yet_is_waited_for() {
    let topic = fresh("late");
    let mut run = numbers(broker(), &topic, QUICK).read();
    for _ in 0..20 {
        assert!(!run.step());
    }
    broker().create_topic(&topic, 1, &[]);
    write_numbers(&topic, 0, 3);
    assert_eq!(run.rows(3), rows_of(0..3));
}
