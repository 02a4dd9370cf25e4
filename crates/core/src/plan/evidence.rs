//! What was seen of the storage of a service that nobody has said a word on: which answer is likelier, and why, in words.

use crate::settings::VolumeUse;

/// What was seen below one mount of a service's running containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSeen {
    /// Path in the container.
    pub target: String,
    /// Files in use, the most telling first; not all where there are many.
    pub files: Vec<FileSeen>,
    /// How many are in use.
    pub in_use: usize,
    /// Nothing has changed there since the volume was made.
    pub never_written: bool,
}

/// A file that somebody writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// Its path, from the mount's.
    pub file: String,
    /// Name of the process.
    pub process: String,
    /// How many processes of that name.
    pub processes: usize,
    /// How it is held.
    pub held: Held,
}

/// How a file is held, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Locked.
    Locked,
    /// Open for writing.
    Open,
    /// Mapped into memory, shared and writable.
    Mapped,
}

/// Files that are named for one mount; of the others only the number is told.
const NAMED: usize = 3;

/// What was seen, in words.
pub(super) fn words(seen: &[MountSeen]) -> String {
    let mut told: Vec<String> = Vec::new();
    for mount in seen {
        told.extend(mount.files.iter().take(NAMED).map(|file| of_file(file, &mount.target)));
        let more = mount.in_use.saturating_sub(mount.files.len().min(NAMED));
        match (mount.in_use, more) {
            (0, _) if mount.never_written => {
                told.push(format!("nothing below {} has changed since it was made from the image", mount.target));
            }
            (0, _) => told.push(format!("nothing below {} is open for writing", mount.target)),
            (_, 0) => {}
            (_, more) => told.push(format!("{more} more below {}", mount.target)),
        }
    }
    told.join("; ")
}

fn of_file(file: &FileSeen, target: &str) -> String {
    let path = format!("{}/{}", target.trim_end_matches('/'), file.file);
    let (who, hold) = match file.processes {
        0 | 1 => (file.process.clone(), "holds"),
        number => (format!("{number} processes {}", file.process), "hold"),
    };
    match file.held {
        Held::Locked => format!("{who} {hold} a lock on {path}"),
        Held::Open => format!("{who} {hold} {path} open for writing"),
        Held::Mapped => format!("{who} {hold} {path} mapped for writing"),
    }
}

/// The answers, the likelier one first. Whatever is held now is what a second copy would meet; and what is not held may
/// still be data, so that only what was never written to is taken for code.
pub(super) fn answers(seen: &[MountSeen], database: bool, anonymous: bool) -> Vec<VolumeUse> {
    let held = seen.iter().any(|mount| mount.in_use > 0);
    let code = anonymous && !seen.is_empty() && seen.iter().all(|mount| mount.in_use == 0 && mount.never_written);
    let mut answers = match () {
        () if held || database => vec![VolumeUse::Own, VolumeUse::Share, VolumeUse::Renew],
        () if code => vec![VolumeUse::Renew, VolumeUse::Share, VolumeUse::Own],
        () => vec![VolumeUse::Share, VolumeUse::Own, VolumeUse::Renew],
    };
    answers.retain(|answer| anonymous || *answer != VolumeUse::Renew);
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(process: &str, processes: usize, file: &str, held: Held) -> FileSeen {
        FileSeen { file: file.into(), process: process.into(), processes, held }
    }

    fn mount(target: &str, files: Vec<FileSeen>) -> MountSeen {
        MountSeen { target: target.into(), in_use: files.len(), files, never_written: false }
    }

    #[test]
    fn what_is_held_is_told_by_process_and_file() {
        let seen = [
            mount("/data", vec![file("redis-server", 1, "appendonlydir/a.aof", Held::Open)]),
            mount("/db", vec![file("python3", 4, "shop.db", Held::Locked), file("python3", 4, "i", Held::Mapped)]),
            mount("/uploads", vec![]),
        ];
        assert_eq!(
            words(&seen),
            "redis-server holds /data/appendonlydir/a.aof open for writing; 4 processes python3 hold a lock on \
             /db/shop.db; 4 processes python3 hold /db/i mapped for writing; nothing below /uploads is open for writing"
        );
    }

    #[test]
    fn of_many_files_the_first_are_named_and_the_rest_counted() {
        let many = (1..=5).map(|number| file("mysqld", 1, &number.to_string(), Held::Open)).collect();
        let seen = MountSeen { in_use: 700, ..mount("/d/", many) };
        assert!(words(&[seen]).ends_with("mysqld holds /d/3 open for writing; 697 more below /d/"));
    }

    #[test]
    fn the_likelier_answer_comes_first() {
        let (own, share, renew) = (VolumeUse::Own, VolumeUse::Share, VolumeUse::Renew);
        let held = [mount("/a", vec![]), mount("/b", vec![file("x", 1, "f", Held::Open)])];
        let quiet = [mount("/a", vec![])];
        let code = [MountSeen { never_written: true, ..mount("/code", vec![]) }];
        assert_eq!(answers(&held, false, false), [own, share]);
        assert_eq!(answers(&held, false, true), [own, share, renew]);
        assert_eq!(answers(&quiet, false, false), [share, own]);
        assert_eq!(answers(&quiet, true, false), [own, share]);
        assert_eq!(answers(&code, false, true), [renew, share, own]);
        assert_eq!(answers(&code, false, false), [share, own]);
        // Nobody could look.
        assert_eq!(answers(&[], false, true), [share, own, renew]);
    }

    #[test]
    fn one_mount_with_data_keeps_the_others_from_being_taken_for_code() {
        let seen = [MountSeen { never_written: true, ..mount("/code", vec![]) }, mount("/uploads", vec![])];
        assert_eq!(answers(&seen, false, true)[0], VolumeUse::Share);
    }
}
