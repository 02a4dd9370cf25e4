//! Services that are rolled in nginx, however nginx calls them: by gRPC's protocol, uwsgi's, as a stream of bytes, from a newer nginx.

use handover_lab::load::StreamSpec;

use crate::harness::proxies::{app, with_images};
use crate::harness::{Stack, assert_few_retries};
use crate::rolling::{requests, rolled};
use crate::router_nginx::told;

const DEBIANS: &str = "handover-lab/nginx:1.22";
const NEWER: &str = "handover-lab/nginx:1.26";

/// A stack that runs, with `app` behind this nginx; `configuration` is what stands beside `events`.
fn behind(image: &str, name: &str, app: &str, port: u16, configuration: &str) -> Stack {
    let stack = with_images(name, &[image]);
    stack.write("nginx.conf", &format!("load_module modules/ngx_stream_module.so;\nevents {{}}\n{configuration}\n"));
    if image == NEWER {
        stack.write("nginx.conf", &format!("events {{}}\n{configuration}\n"));
    }
    stack.write("upstream.conf", &format!("upstream backend {{\n    server {}-app-1:{port};\n}}\n", stack.name));
    stack.compose_file(&format!(
        "
services:
  nginx:
    image: {image}
    restart: on-failure
    ports: [\"${{PORT}}:80\"]
    volumes:
      - ./nginx.conf:/etc/nginx/nginx.conf:ro
      - ./upstream.conf:/etc/nginx/upstream.conf
{app}
x-handover:
  services:
    app:
      strategy: rolling
      router: {{ nginx: {{ service: nginx, upstream: backend, file: /etc/nginx/upstream.conf }} }}
"
    ));
    stack.start();
    stack
}

/// Deploys under load; nginx is told, and nobody notices.
#[track_caller]
fn nobody_notices(stack: &mut Stack, streams: impl IntoIterator<Item = StreamSpec>) {
    let upstream = |stack: &Stack| std::fs::read_to_string(stack.path().join("upstream.conf")).expect("it is there");
    let (nginx, before) = (stack.container_id("nginx"), upstream(stack));
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    rolled(&finished);
    assert_eq!(told(&finished), 1, "{finished}");
    assert_eq!((stack.container_id("nginx"), upstream(stack)), (nginx, before), "{finished}");
}

/// An HTTP server that passes requests on like this.
fn http(pass: &str) -> String {
    format!("http {{ include /etc/nginx/upstream.conf; server {{ listen 80; location / {{ {pass} }} }} }}")
}

#[test]
fn a_newer_nginx() {
    let pass = http("proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection '';");
    let mut stack = behind(NEWER, "kinds-newer", &app(&[("LAB_BOOT_MS", "500")], &[]), 80, &pass);
    let streams = requests(&stack);
    nobody_notices(&mut stack, streams);
}

#[test]
fn grpc_pass() {
    let mut stack = behind(DEBIANS, "kinds-grpc", &app(&[], &[]), 80, &http("grpc_pass grpc://backend;"));
    let streams = requests(&stack);
    nobody_notices(&mut stack, streams);
}

#[test]
fn a_stream() {
    let stream = "stream { include /etc/nginx/upstream.conf; server { listen 80; proxy_pass backend; } }";
    let mut stack = behind(DEBIANS, "kinds-stream", &app(&[], &[]), 80, stream);
    let streams = requests(&stack);
    nobody_notices(&mut stack, streams);
}

/// Answers as the lab's own service does.
const APPLICATION: &str = r"
import os, time
from urllib.parse import parse_qs

def application(environment, start_response):
    environment['wsgi.input'].read(int(environment.get('CONTENT_LENGTH') or 0))
    milliseconds = parse_qs(environment.get('QUERY_STRING', '')).get('ms', ['0'])[0]
    time.sleep(int(milliseconds) / 1000)
    start_response('200 OK', [('X-Version', os.environ['VERSION']), ('Content-Type', 'text/plain')])
    return [b'well\n']
";

#[test]
fn uwsgi_pass() {
    let app = r#"
  app:
    image: handover-lab/debian:12
    command: [uwsgi, --plugin, python3, --socket, ":3031", --wsgi-file, /app.py, --processes, "4", --master, --die-on-term]
    expose: ["3031"]
    environment: { VERSION: "${VERSION}" }
    volumes: ["./app.py:/app.py:ro"]
"#;
    let pass = http("uwsgi_pass backend; include /etc/nginx/uwsgi_params;");
    let prepared = Stack::new("kinds-uwsgi-app");
    prepared.write("app.py", APPLICATION);
    let script = prepared.path().join("app.py").display().to_string();
    let mut stack = behind(DEBIANS, "kinds-uwsgi", &app.replace("./app.py", &script), 3031, &pass);
    let streams = requests(&stack);
    nobody_notices(&mut stack, streams);
}
