//! A counter in Redis, in raw RESP.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::wire::{Failure, Target};

const TIMEOUT: Duration = Duration::from_secs(5);
const COMMAND: &[u8] = b"*2\r\n$4\r\nINCR\r\n$12\r\nlab:requests\r\n";

/// Kept-alive connections to one Redis.
#[derive(Debug)]
pub(super) struct Redis {
    target: Target,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

impl Redis {
    /// Connects later.
    pub(super) fn new(target: Target) -> Self {
        Self { target, idle: Mutex::default() }
    }

    /// Increments the counter and returns its value.
    pub(super) async fn increment(&self) -> Result<u64, Failure> {
        tokio::time::timeout(TIMEOUT, self.attempt())
            .await
            .map_err(|_| Failure::new("timeout", format!("no answer within {TIMEOUT:?}")))?
    }

    async fn attempt(&self) -> Result<u64, Failure> {
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => BufReader::new(self.target.connect().await?),
        };
        let mut line = String::new();
        let asked = async {
            connection.get_mut().write_all(COMMAND).await?;
            connection.read_line(&mut line).await
        };
        asked.await.map_err(|error| Failure::from_io("redis", &error))?;
        let count = line
            .strip_prefix(':')
            .and_then(|number| number.trim_end().parse().ok())
            .ok_or_else(|| Failure::new("redis answer", format!("{line:?}")))?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(count)
    }

    fn take_idle(&self) -> Option<BufReader<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let looked = SockRef::from(connection.get_ref()).peek(&mut byte);
            if matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Some(connection);
            }
        }
        None
    }
}
