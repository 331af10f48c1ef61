//! Throwaway object stores that speak S3, Azure Blob Storage and Google Cloud Storage on a free loopback port.
//!
//! Each value is a server of its own, which ends when the value is dropped or the process dies. The Azure and Google
//! servers check no signature of ours and serve one writer; the S3 server refuses wrong signatures and answers
//! `If-None-Match` (it looks and then writes, so it proves nothing about two writers at the same instant).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::throwaway::{Folder, find_program, free_port, wait_for_port};
use crate::{Failure, Unavailable};

/// A server process on a port.
#[derive(Debug)]
struct Process {
    port: u16,
    folder: Folder,
}

impl Process {
    /// Starts a program whose arguments are made from its folder and a free port.
    fn start(
        name: &str,
        program: &Path,
        prepare: impl Fn(&Path) -> std::io::Result<()>,
        arguments: impl Fn(&Path, u16) -> Vec<String>,
    ) -> Result<Self, Unavailable> {
        let broken = |e: Failure| Unavailable::broken(e.0);
        let mut said = String::new();
        // Another process may take the port between our look and the server's bind.
        for _ in 0..4 {
            let folder = Folder::new(name, None).map_err(broken)?;
            let data = folder.path().join("data");
            prepare(&data)
                .map_err(|e| Unavailable::broken(format!("cannot prepare {}: {e}", data.display())))?;
            let port = free_port().map_err(broken)?;
            let mut command = vec![program.display().to_string()];
            command.extend(arguments(&data, port));
            folder.watch(&command, true).map_err(broken)?;
            if wait_for_port(port, || folder.watched_is_dead()) {
                return Ok(Self { port, folder });
            }
            said = folder.output();
        }
        Err(Unavailable::broken(format!("{} does not start: {said}", program.display())))
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// An S3 server over a folder (s3s-fs).
#[derive(Debug)]
pub struct S3 {
    process: Process,
    access_key: String,
    secret_key: String,
}

impl S3 {
    /// The bucket that is there from the start.
    pub const BUCKET: &str = "backups";
    /// The region to sign for.
    pub const REGION: &str = "us-east-1";

    /// Starts a server with one empty bucket.
    ///
    /// # Errors
    /// [`Unavailable`]: missing or broken.
    pub fn start() -> Result<Self, Unavailable> {
        let program = find_program("DM_TEST_S3S_FS", "bin/s3s-fs", "s3s-fs")?;
        let access_key = "AKTESTTESTTESTTEST".to_owned();
        let secret_key = format!("{:032x}", rand::random::<u128>());
        let process = Process::start(
            "s3",
            &program,
            |data| fs::create_dir_all(data.join(Self::BUCKET)),
            |data, port| {
                [
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port.to_string(),
                    "--access-key",
                    &access_key,
                    "--secret-key",
                    &secret_key,
                    &data.display().to_string(),
                ]
                .map(str::to_owned)
                .to_vec()
            },
        )?;
        Ok(Self { process, access_key, secret_key })
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.process.endpoint()
    }

    /// The access key.
    #[must_use]
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The secret key.
    #[must_use]
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// The bucket's folder on disk, for tests that damage objects behind the server's back.
    #[must_use]
    pub fn bucket_dir(&self) -> PathBuf {
        self.process.data().join(Self::BUCKET)
    }
}

/// An Azure Blob Storage emulator (azurite).
#[derive(Debug)]
pub struct Azurite {
    process: Process,
}

impl Azurite {
    /// The emulator's one account; public knowledge.
    pub const ACCOUNT: &str = "devstoreaccount1";
    /// The account's key; public knowledge too.
    pub const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    /// The container that is there from the start.
    pub const CONTAINER: &str = "backups";

    /// A signature of that key over "any operation until 2099"; it lets us make a container without a client.
    const TOKEN: &str = "sv=2020-04-08&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&spr=https%2Chttp\
                         &sig=P5q5H%2BapR7NsWzRCr6dQiIgWyL%2B4MbU25IBqpbczwJg%3D";

    /// Starts an emulator with one empty container.
    ///
    /// # Errors
    /// [`Unavailable`]: missing or broken.
    pub fn start() -> Result<Self, Unavailable> {
        let program =
            find_program("DM_TEST_AZURITE", "azurite/node_modules/.bin/azurite-blob", "azurite-blob")?;
        let process = Process::start(
            "azurite",
            &program,
            |data| fs::create_dir_all(data),
            |data, port| {
                [
                    "--blobHost",
                    "127.0.0.1",
                    "--blobPort",
                    &port.to_string(),
                    "--location",
                    &data.display().to_string(),
                    "--silent",
                    "--skipApiVersionCheck",
                    "--disableTelemetry",
                ]
                .map(str::to_owned)
                .to_vec()
            },
        )?;
        let target = format!("/{}/{}?restype=container&{}", Self::ACCOUNT, Self::CONTAINER, Self::TOKEN);
        let status = put(process.port, &target)
            .map_err(|e| Unavailable::broken(format!("azurite does not answer: {e}")))?;
        if !status.contains(" 201 ") {
            return Err(Unavailable::broken(format!("azurite made no container: {status}")));
        }
        Ok(Self { process })
    }

    /// `http://127.0.0.1:port/devstoreaccount1`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}/{}", self.process.endpoint(), Self::ACCOUNT)
    }
}

/// A server for the XML interface of Google Cloud Storage, the one that `object_store` speaks.
///
/// It is the S3 server without keys, for clients that send no credentials: for the requests that matter here the two
/// protocols are the same. It knows no `x-goog-if-generation-match`, so create-only writes are not honoured, and a
/// repository must notice that.
#[derive(Debug)]
pub struct Gcs {
    process: Process,
}

impl Gcs {
    /// The bucket that is there from the start.
    pub const BUCKET: &str = "backups";

    /// Starts a server with one empty bucket.
    ///
    /// # Errors
    /// [`Unavailable`]: missing or broken.
    pub fn start() -> Result<Self, Unavailable> {
        let program = find_program("DM_TEST_S3S_FS", "bin/s3s-fs", "s3s-fs")?;
        let process = Process::start(
            "gcs",
            &program,
            |data| fs::create_dir_all(data.join(Self::BUCKET)),
            |data, port| {
                ["--host", "127.0.0.1", "--port", &port.to_string(), &data.display().to_string()]
                    .map(str::to_owned)
                    .to_vec()
            },
        )?;
        Ok(Self { process })
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.process.endpoint()
    }
}

/// One bodyless PUT; gives the status line.
fn put(port: u16, target: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "PUT {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
