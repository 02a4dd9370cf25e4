//! Datagrams and their echoes.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::pace::paced;
use super::{StreamContext, sample, sighting};
use crate::wire::Failure;

const LARGEST: usize = 65_536;
const AFTER_ERROR: std::time::Duration = std::time::Duration::from_millis(1);

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let shared = Arc::new(context.clone());
    if context.spec.new_socket {
        paced(&context, |number, due| {
            let context = Arc::clone(&shared);
            async move {
                let outcome = context.within_timeout(exchange(&context, number)).await;
                context.record(due, outcome);
            }
        })
        .await;
        return;
    }
    let flow = match Flow::open(&context).await {
        Ok(flow) => Arc::new(flow),
        Err(failure) => {
            return context.recorder.failed(context.index, Instant::now(), &failure);
        }
    };
    let receiver = tokio::spawn(Arc::clone(&flow).receive(Arc::clone(&shared)));
    paced(&context, |number, due| {
        let (context, flow) = (Arc::clone(&shared), Arc::clone(&flow));
        async move {
            let outcome = context.within_timeout(flow.exchange(number)).await;
            flow.waiting().remove(&number);
            context.record(due, outcome.and_then(|answer| context.check_expected(&answer)));
        }
    })
    .await;
    receiver.abort();
}

/// One socket for all datagrams: the kernel's connection tracking sees one flow.
struct Flow {
    socket: UdpSocket,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
    any_reply: bool,
}

impl Flow {
    async fn open(context: &StreamContext) -> Result<Self, Failure> {
        Ok(Self { socket: connect(context).await?, waiting: Mutex::default(), any_reply: context.spec.any_reply })
    }

    async fn exchange(&self, number: u64) -> Result<Vec<u8>, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(number, sender);
        let payload = payload(number);
        // A refusal of an earlier datagram (ICMP) is reported by the next call on the socket: send once more.
        if self.socket.send(&payload).await.is_err() {
            self.socket.send(&payload).await.map_err(|error| Failure::from_io("send", &error))?;
        }
        receiver.await.map_err(|_| Failure::new("send error", "the stream has ended"))
    }

    async fn receive(self: Arc<Self>, context: Arc<StreamContext>) {
        let mut buffer = vec![0; LARGEST];
        loop {
            // An error is an ICMP answer to some datagram; which one is not said, so that one times out.
            let Ok(length) = self.socket.recv(&mut buffer).await else {
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            };
            let answer = &buffer[..length];
            let mut waiting = self.waiting();
            let number = number_in(answer).or_else(|| {
                let oldest = waiting.keys().min().copied();
                oldest.filter(|_| self.any_reply)
            });
            let sender = number.and_then(|number| waiting.remove(&number));
            drop(waiting);
            if let Some(sender) = sender {
                context.recorder.saw(context.index, Instant::now(), sighting::of_text(answer));
                let _ = sender.send(answer.to_vec());
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Vec<u8>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn exchange(context: &StreamContext, number: u64) -> Result<(), Failure> {
    let socket = connect(context).await?;
    socket.send(&payload(number)).await.map_err(|error| Failure::from_io("send", &error))?;
    let mut buffer = vec![0; LARGEST];
    let length = socket.recv(&mut buffer).await.map_err(|error| Failure::from_io("response", &error))?;
    let answer = &buffer[..length];
    if number_in(answer) != Some(number) && !context.spec.any_reply {
        return Err(Failure::new("unexpected answer", sample(answer)));
    }
    context.recorder.saw(context.index, Instant::now(), sighting::of_text(answer));
    context.check_expected(answer)
}

async fn connect(context: &StreamContext) -> Result<UdpSocket, Failure> {
    let target = context.target.resolve().await?;
    let local: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let opened = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(target).await?;
        Ok(socket)
    };
    opened.await.map_err(|error: std::io::Error| Failure::from_io("connect", &error))
}

fn payload(number: u64) -> Vec<u8> {
    format!("lab-datagram={number}").into_bytes()
}

fn number_in(answer: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(answer).ok()?;
    text.rsplit_once("lab-datagram=")?.1.trim_end().parse().ok()
}
