//! The emulated object stores come up and answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use dm_testkit::emulators::{Azurite, Gcs, S3};
use dm_testkit::require;

fn get(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn s3_answers_and_wants_a_signature() {
    let server = require!(S3::start());
    let answer = get(&format!("{}/{}/nothing", server.endpoint(), S3::BUCKET));
    assert!(answer.contains("AccessDenied"), "{answer}");
    assert!(server.bucket_dir().is_dir());
    let folder = server.bucket_dir();
    drop(server);
    dm_testkit::wait_until("the server's folder is gone", || !folder.exists());
}

#[test]
fn azurite_answers() {
    let server = require!(Azurite::start());
    let answer = get(&format!("{}/{}/nothing", server.endpoint(), Azurite::CONTAINER));
    assert!(answer.contains("x-ms-request-id"), "{answer}");
}

#[test]
fn gcs_lists_its_bucket_for_everybody() {
    let server = require!(Gcs::start());
    let answer = get(&format!("{}/{}?list-type=2", server.endpoint(), Gcs::BUCKET));
    assert!(answer.contains("<ListBucketResult"), "{answer}");
}
