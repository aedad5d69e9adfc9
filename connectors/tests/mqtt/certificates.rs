//! Certificates of a test's own, made by openssl.
use std::fs;
use std::path::Path;

use crate::broker::run;

fn openssl(arguments: &str, directory: &Path) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = run("openssl", "openssl", &arguments, directory);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}

/// Writes `{name}.crt` and `{name}.key` of an authority.
pub(crate) fn authority(name: &str, directory: &Path) {
    openssl(
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN={name} \
             -keyout {name}.key -out {name}.crt"
        ),
        directory,
    );
}

/// Writes `{name}.crt` and `{name}.key` of somebody whom an authority vouches for, under these names.
pub(crate) fn signed(name: &str, names: &str, by: &str, directory: &Path) {
    openssl(
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key \
             -out {name}.csr"
        ),
        directory,
    );
    fs::write(
        directory.join("extensions"),
        format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"),
    )
    .unwrap();
    openssl(
        &format!(
            "x509 -req -in {name}.csr -CA {by}.crt -CAkey {by}.key -CAcreateserial -days 30 -extfile extensions \
             -out {name}.crt"
        ),
        directory,
    );
}
