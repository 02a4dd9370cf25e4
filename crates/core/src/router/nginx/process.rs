//! nginx as the kernel's list of processes shows it: its master, its workers, and how it was started.

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The process that started it.
    pub parent: u32,
    /// Its command line, or what it has put in its place.
    pub title: String,
}

/// Master and workers at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nginx {
    /// The master.
    pub master: u32,
    /// How it was started: its program and arguments.
    pub command: Vec<String>,
    /// Workers that take connections.
    pub workers: Vec<u32>,
    /// Workers of an earlier generation, which end what is under way.
    pub ending: usize,
}

const MASTER: &str = "nginx: master process ";
const WORKER: &str = "nginx: worker process";

/// The nginx among the processes of a container; `None` if there is none.
pub fn nginx(processes: &[Process]) -> Option<Nginx> {
    let (master, started) =
        processes.iter().find_map(|process| Some((process.pid, process.title.strip_prefix(MASTER)?)))?;
    let children = processes.iter().filter(|process| process.parent == master);
    let titled: Vec<(u32, &str)> =
        children.filter_map(|child| Some((child.pid, child.title.strip_prefix(WORKER)?.trim()))).collect();
    Some(Nginx {
        master,
        command: command(started),
        workers: titled.iter().filter(|(_, rest)| rest.is_empty()).map(|(pid, _)| *pid).collect(),
        ending: titled.iter().filter(|(_, rest)| rest.starts_with("is shutting down")).count(),
    })
}

/// Program and arguments out of the master's title, where they stand with single spaces between and without quotes. A value may
/// have spaces (`-g daemon off;`): it goes on to the next option.
fn command(started: &str) -> Vec<String> {
    let mut command: Vec<String> = Vec::new();
    let mut in_value = false;
    for word in started.split(' ').filter(|word| !word.is_empty()) {
        let option = word.len() == 2 && word.starts_with('-') && "cegp".contains(&word[1..]);
        match command.last_mut() {
            Some(value) if in_value && !option => {
                value.push(' ');
                value.push_str(word);
            }
            _ => {
                in_value = command.last().is_some_and(|before| is_option(before)) && !option;
                command.push(word.to_owned());
            }
        }
    }
    command
}

fn is_option(word: &str) -> bool {
    word.len() == 2 && word.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, title: &str) -> Process {
        Process { pid, parent, title: title.to_owned() }
    }

    #[test]
    fn master_workers_and_those_that_end_are_told_apart() {
        let processes = [
            process(10, 1, "sh -c start"),
            process(11, 10, "nginx: master process /usr/sbin/nginx -p /opt/nginx -c conf/nginx.conf -g daemon off;"),
            process(12, 11, "nginx: worker process is shutting down"),
            process(13, 11, "nginx: worker process"),
            process(14, 11, "nginx: cache manager process"),
            process(15, 1, "nginx: worker process"),
        ];
        let found = nginx(&processes).unwrap();
        assert_eq!((found.master, found.workers, found.ending), (11, vec![13], 1));
        let words = ["/usr/sbin/nginx", "-p", "/opt/nginx", "-c", "conf/nginx.conf", "-g", "daemon off;"];
        assert_eq!(found.command, words);
        assert_eq!(nginx(&processes[..1]), None);
    }

    #[test]
    fn values_with_spaces_go_on_to_the_next_option() {
        let started = "nginx -g daemon off; worker_processes 2; -c /etc/nginx/nginx.conf";
        let words = ["nginx", "-g", "daemon off; worker_processes 2;", "-c", "/etc/nginx/nginx.conf"];
        assert_eq!(command(started), words);
        assert_eq!(command("nginx"), ["nginx"]);
    }
}
