//! Files, processes and servers inside a container, as its own processes see them. Needs root.

#[allow(dead_code, reason = "it is shared with tests that need more of it")]
mod support;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};

use serde_json::{Value, json};
use support::{Helper, Outcome};

/// A process whose root is a directory of its own.
struct Inside {
    root: tempfile::TempDir,
    child: Child,
}

impl Inside {
    fn start() -> Outcome<Self> {
        let root = tempfile::tempdir()?;
        // Without a program in it, the directory can only become the root of one that runs already.
        let mut command = Command::new("python3");
        let change = "import os, sys, time; os.chroot(sys.argv[1]); print('in', flush=True); time.sleep(600)";
        command.args(["-c", change]).arg(root.path()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn()?;
        let mut said = [0; 3];
        child.stdout.take().ok_or("no output")?.read_exact(&mut said)?;
        Ok(Self { root, child })
    }

    fn write(&self, path: &str, text: &str) -> Outcome {
        Ok(std::fs::write(self.root.path().join(path), text)?)
    }

    fn read(&self, session: &mut Helper, path: &str) -> Outcome<Value> {
        session.ask(json!({"read_file": {"process": self.child.id(), "path": path}}))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_file_is_read_and_written_in_place_through_links_that_lead_inside() -> Outcome {
    let inside = Inside::start()?;
    let mut session = Helper::start(&["session"])?;
    inside.write("data.conf", "upstream one;\n")?;
    let data = inside.root.path().join("data.conf");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o640))?;
    // On the host nothing is there.
    symlink("/data.conf", inside.root.path().join("link.conf"))?;
    let before = std::fs::metadata(&data)?;
    assert_eq!(inside.read(&mut session, "/link.conf")?, json!({"text": "upstream one;\n"}));
    assert_eq!(inside.read(&mut session, "/../../../../../nothing")?["text"], Value::Null);
    for text in ["upstream another;\n", "short\n"] {
        let write = json!({"process": inside.child.id(), "path": "/link.conf", "text": text});
        session.ask(json!({ "write_file": write }))?;
        assert_eq!(std::fs::read_to_string(&data)?, text);
    }
    let after = std::fs::metadata(&data)?;
    assert_eq!((after.ino(), after.mode(), after.uid()), (before.ino(), before.mode(), before.uid()));
    Ok(())
}

#[test]
fn what_is_not_a_file_of_text_is_an_error_and_so_is_a_process_that_has_ended() -> Outcome {
    let mut inside = Inside::start()?;
    let mut session = Helper::start(&["session"])?;
    std::fs::write(inside.root.path().join("binary"), [0xff, 0xfe])?;
    let error = inside.read(&mut session, "/binary").unwrap_err().to_string();
    assert!(error.contains("/binary is not text"), "{error}");
    inside.child.kill()?;
    inside.child.wait()?;
    let error = inside.read(&mut session, "/binary").unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", inside.child.id())), "{error}");
    Ok(())
}

#[test]
fn servers_are_spoken_to_by_socket_and_by_address() -> Outcome {
    let inside = Inside::start()?;
    let mut session = Helper::start(&["session"])?;
    let listener = UnixListener::bind(inside.root.path().join("api.sock"))?;
    let server = std::thread::spawn(move || -> std::io::Result<String> {
        let (mut stream, _) = listener.accept()?;
        let mut said = [0; 64];
        let length = stream.read(&mut said)?;
        stream.write_all(b"well\n")?;
        Ok(String::from_utf8_lossy(&said[..length]).into_owned())
    });
    let converse =
        |door: Value, text: &str| json!({"converse": {"process": inside.child.id(), "door": door, "text": text}});
    let said = session.ask(converse(json!({"socket": "/api.sock"}), "show info\n"))?;
    assert_eq!(said, json!({"text": "well\n"}));
    assert_eq!(server.join().map_err(|_| "the server panicked")??, "show info\n");
    let error = session.ask(converse(json!({"address": "127.0.0.1:1"}), "x")).unwrap_err().to_string();
    assert!(error.contains("speaking to 127.0.0.1:1"), "{error}");
    Ok(())
}

#[test]
fn processes_are_those_below_the_first() -> Outcome {
    let inside = Inside::start()?;
    let mut session = Helper::start(&["session"])?;
    let found = session.ask(json!({"processes": {"process": std::process::id()}}))?;
    let all = found["processes"].as_array().ok_or("no list")?;
    let child = all.iter().find(|one| one["pid"] == inside.child.id()).ok_or("the child is missing")?;
    assert_eq!(child["parent"], std::process::id());
    assert!(child["title"].as_str().is_some_and(|title| title.contains("python3 -c import os")), "{child}");
    assert!(all.iter().all(|one| one["pid"] != 1), "{found}");
    Ok(())
}
