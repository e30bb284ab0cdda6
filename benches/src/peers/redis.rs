//! Redis, as its documentation says to lock with one server: `SET key random NX PX ttl`, and
//! a script that deletes the key only if it is still one's own.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use redis::{Client, Connection, Script};

use super::Peer;
use crate::Failure;

const KEY: &str = "lock";
const TTL_MS: u64 = 30_000;
const SOCKET: &str = "redis.socket";

const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] \
                       then return redis.call('del', KEYS[1]) else return 0 end";

/// A connection to a server of this bench's own, over a unix socket.
pub struct Redis {
    connection: RefCell<Connection>,
    release: Script,
    pid: u32,
    grants: Cell<u64>,
    // Dropped last: the connection goes first.
    _server: Option<Server>,
}

/// The server's process, which ends when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds the key.
#[must_use]
pub struct Key<'a> {
    redis: &'a Redis,
    value: String,
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        let mut connection = self.redis.connection.borrow_mut();
        let deleted: i64 = self
            .redis
            .release
            .key(KEY)
            .arg(&self.value)
            .invoke(&mut *connection)
            .expect("the server answers");
        assert_eq!(deleted, 1, "the key timed out");
    }
}

impl Redis {
    fn connect(dir: &Path, server: Option<Server>) -> Result<Self, Failure> {
        let url = format!("redis+unix://{}", dir.join(SOCKET).display());
        let client = Client::open(url)?;
        let begun = Instant::now();
        let connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) if begun.elapsed() > Duration::from_secs(5) => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        Ok(Self {
            connection: RefCell::new(connection),
            release: Script::new(RELEASE),
            pid: std::process::id(),
            grants: Cell::new(0),
            _server: server,
        })
    }
}

impl Peer for Redis {
    type Guard<'a> = Key<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(dir.join(SOCKET))
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => "redis-server is not installed".into(),
                _ => Failure::from(error),
            })?;
        Self::connect(dir, Some(Server(server)))
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Self::connect(dir, None)
    }

    /// Asks again at once when the key is taken: the round trip is its wait.
    fn take(&self) -> Key<'_> {
        self.grants.set(self.grants.get() + 1);
        let value = format!("{}-{}", self.pid, self.grants.get());
        let mut connection = self.connection.borrow_mut();
        loop {
            let answer: Option<String> = redis::cmd("SET")
                .arg(KEY)
                .arg(&value)
                .arg("NX")
                .arg("PX")
                .arg(TTL_MS)
                .query(&mut connection)
                .expect("the server answers");
            if answer.is_some() {
                return Key { redis: self, value };
            }
        }
    }
}
