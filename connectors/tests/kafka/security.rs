//! Passwords and TLS.
use crate::broker::{USER, value};
use crate::reading::Source;
use crate::{broker, fresh, numbers, rows_of};

fn source(address: &str, topic: &str, options: &str) -> Source {
    let connector = format!("type = \"kafka\"\nbrokers = \"{address}\"\ntopic = \"{topic}\"\n[options]\n{options}");
    Source::new(&connector, "", &["n bigint!"])
}

#[test]
fn passwords_are_right_or_wrong() {
    let topic = fresh("passwords");
    broker().create_topic(&topic, 1, &[]);
    broker().write(&topic, 0, ["{\"n\":1}"].map(value));
    let with = |password: &str| {
        let (user, _) = USER;
        let options = format!(
            "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"PLAIN\"\nsasl.username = \"{user}\"\n\
             sasl.password = \"{password}\""
        );
        source(&broker().password_address(), &topic, &options)
    };
    assert_eq!(with(USER.1).read().rows(1), rows_of([1]));
    assert!(!format!("{:?}", with("hush").connector).contains("hush"));
    // With a wrong one it waits, for as long as nobody mends it.
    let mut wrong = with("wrong").read();
    for _ in 0..5 {
        assert!(!wrong.step());
    }
    let mut none = numbers(broker(), &topic, "").read();
    assert_eq!(none.rows(1), rows_of([1]));
}

#[test]
fn tls_is_trusted_or_not() {
    let topic = fresh("tls");
    broker().create_topic(&topic, 1, &[]);
    broker().write(&topic, 0, ["{\"n\":1}"].map(value));
    let trusted = format!(
        "security.protocol = \"SSL\"\nssl.ca.location = \"{}\"",
        broker().certificate().display()
    );
    assert_eq!(
        source(&broker().tls_address(), &topic, &trusted).read().rows(1),
        rows_of([1])
    );
    let mut strange = source(&broker().tls_address(), &topic, "security.protocol = \"SSL\"").read();
    for _ in 0..5 {
        assert!(!strange.step());
    }
}
