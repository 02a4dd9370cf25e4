//! Kept-alive connections.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Failure, HttpConnection, Target};

/// A pool of kept-alive connections to one target.
///
/// It opens `size` connections and then uses them in turn, so that each of them is idle for a while between two requests;
/// when all are busy it opens more, and lets those go again afterwards.
#[derive(Debug)]
pub struct Pool {
    target: Target,
    size: usize,
    idle: Mutex<VecDeque<Pooled>>,
    members: Arc<()>,
    closed_while_idle: AtomicU64,
}

/// A connection that belongs to a pool until it is dropped.
#[derive(Debug)]
pub struct Pooled {
    /// The connection.
    pub connection: HttpConnection,
    /// Whether it has answered a request before.
    pub reused: bool,
    _member: Arc<()>,
}

impl Pool {
    /// An empty pool.
    pub fn new(target: Target, size: usize) -> Self {
        Self {
            target,
            size: size.max(1),
            idle: Mutex::default(),
            members: Arc::new(()),
            closed_while_idle: AtomicU64::new(0),
        }
    }

    /// The next idle connection that is still open, or a new one.
    ///
    /// # Errors
    /// `connect …` or `resolve …`.
    pub async fn take(&self) -> Result<Pooled, Failure> {
        match self.take_idle() {
            Some(pooled) => Ok(pooled),
            None => self.open().await,
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// `connect …` or `resolve …`.
    pub async fn open(&self) -> Result<Pooled, Failure> {
        let member = Arc::clone(&self.members);
        Ok(Pooled { connection: HttpConnection::connect(&self.target).await?, reused: false, _member: member })
    }

    /// Keeps a connection for the next request.
    pub fn put_back(&self, mut pooled: Pooled) {
        pooled.reused = true;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.size {
            idle.push_back(pooled);
        }
    }

    /// How many idle connections the server had closed before they were needed again. Nobody notices those.
    pub fn closed_while_idle(&self) -> u64 {
        self.closed_while_idle.load(Ordering::Relaxed)
    }

    fn take_idle(&self) -> Option<Pooled> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let before = idle.len();
        idle.retain(|pooled| pooled.connection.is_still_open());
        let closed = before - idle.len();
        self.closed_while_idle.fetch_add(closed as u64, Ordering::Relaxed);
        if Arc::strong_count(&self.members) - 1 < self.size {
            return None;
        }
        idle.pop_front()
    }
}
