//! A small HTTP server as a process of its own, for tests: `server <name>`, with the
//! listening socket as its standard input.
//!
//! Each connection is a thread that waits in a read. An answer is the server's name, a space and the length of the request's
//! body, padded to the length that the path says; at `/peer` the client's address and port. Who speaks HTTP/2 gets for each request that ends a head that means nothing.
//! Prints one line once it listens.
#![allow(clippy::print_stdout, reason = "who starts it waits for a line")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name] = arguments.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    println!("listening");
    for stream in listener.incoming().flatten() {
        let name = name.clone();
        std::thread::spawn(move || serve(stream, &name));
    }
    Ok(())
}

fn serve(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    if input.fill_buf()?.starts_with(b"PRI ") {
        return serve_http2(input, stream);
    }
    loop {
        let (mut first, mut line, mut length, mut close) = (String::new(), String::new(), 0, false);
        if input.read_line(&mut first)? == 0 {
            return Ok(());
        }
        while input.read_line(&mut line)? > 2 {
            let field = line.trim().to_ascii_lowercase();
            close |= field == "connection: close";
            if let Some(value) = field.strip_prefix("content-length: ") {
                length = value.parse().unwrap_or_default();
            }
            line.clear();
        }
        io::copy(&mut (&mut input).take(length), &mut io::sink())?;
        let asked = first.split(' ').nth(1).and_then(|path| path.trim_start_matches('/').parse().ok());
        let mut body = format!("{name} {length}");
        if first.starts_with("GET /peer ") {
            body = format!("{} {}", stream.peer_addr()?.ip().to_canonical(), stream.peer_addr()?.port());
        }
        body.extend(std::iter::repeat_n(' ', asked.unwrap_or(0_usize).saturating_sub(body.len())));
        let connection = if close { "Connection: close\r\n" } else { "" };
        // In one piece, as servers do.
        let answer = format!("HTTP/1.1 200 OK\r\n{connection}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes())?;
        if close {
            return Ok(());
        }
    }
}

fn serve_http2(mut input: BufReader<TcpStream>, mut stream: TcpStream) -> io::Result<()> {
    input.read_exact(&mut [0; 24])?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    loop {
        let mut header = [0; 9];
        input.read_exact(&mut header)?;
        let [_, high, low, kind, flags, id @ ..] = header;
        io::copy(&mut (&mut input).take(u64::from(u16::from_be_bytes([high, low]))), &mut io::sink())?;
        if kind <= 1 && flags & 1 == 1 {
            stream.write_all(&[&[0, 0, 1, 1, 5], &id[..], &[0x88]].concat())?;
        }
    }
}
