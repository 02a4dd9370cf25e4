//! What `docker compose up --dry-run --progress plain` prints: which containers it would recreate.
//!
//! Each container has lines such as ` DRY-RUN MODE -  Container shop-web-1  Recreate`. One that is as wanted is `Running`
//! (or, since it was only looked at, `Created` with 2.26 and `Starting` with 2.40, where it does not run). **Measured** with 2.26.1 and 2.40.3; Compose 5
//! has the same words in its source.

/// What Compose says of a container that is neither made anew nor unknown to us.
const OTHER_WORDS: [&str; 12] = [
    "Running",
    "Created",
    "Creating",
    "Recreated",
    "Starting",
    "Started",
    "Waiting",
    "Healthy",
    "Stopping",
    "Stopped",
    "Removing",
    "Removed",
];

/// Names of the containers that would be recreated. `None` if of the `expected` containers, which run and are among those that
/// Compose was asked about, not one is spoken of in words that are known here: whoever takes that for "none" believes a
/// Compose that he does not understand.
pub fn recreated(output: &str, expected: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let containers: Vec<(&str, &str)> = output.lines().filter_map(container_and_word).collect();
    let is_known = |word: &str| word == "Recreate" || OTHER_WORDS.contains(&word);
    let understood = containers.iter().any(|(name, word)| expected(name) && is_known(word));
    let recreated = || containers.iter().filter(|(_, word)| *word == "Recreate").map(|(name, _)| (*name).to_owned());
    understood.then(|| recreated().collect())
}

/// Whether a dry run has failed at what the real run can do: to copy inline configs and secrets into a container that has only
/// been pretended. **Measured** with 2.26.1. What it has said until then holds.
pub fn gave_up_on_files(output: &str) -> bool {
    output.lines().any(|line| line.trim().starts_with("DRY-RUN MODE -  Could not find the file / in container"))
}

/// Whether it has come to the point where Compose starts containers, and recreates none any more. What fails from there on says
/// nothing against a deploy: it waits for the health of what runs now, and the deploy may be what mends that. **Measured** with 2.26.1 and 2.40.3.
pub fn is_through_with_recreating(output: &str) -> bool {
    let words = ["Starting", "Started", "Waiting", "Healthy"];
    output.lines().filter_map(container_and_word).any(|(_, word)| words.contains(&word))
}

fn container_and_word(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "Container").skip(1);
    Some((words.next()?, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2.26.1: `web` is to change, `db` is not.
    const COMPOSE_2_26: &str = " DRY-RUN MODE -  Container shop-db-1  Created
 DRY-RUN MODE -  Container shop-web-1  Recreate
 DRY-RUN MODE -  Container shop-web-1  Recreated
 DRY-RUN MODE -  Container shop-db-1  Starting
 DRY-RUN MODE -  Container shop-db-1  Started
 DRY-RUN MODE -  Container 6e4a69b5dcda_shop-web-1  Starting
 DRY-RUN MODE -  Container 6e4a69b5dcda_shop-web-1  Started
";

    /// 2.40.3: nothing is to change.
    const COMPOSE_2_40_UNCHANGED: &str = " DRY-RUN MODE -  Container shop-db-1  Running
 DRY-RUN MODE -  Container shop-web-1  Starting
 DRY-RUN MODE -  Container shop-web-1  Started
";

    /// 2.40.3: `web` is to change.
    const COMPOSE_2_40: &str = " DRY-RUN MODE -  Container shop-db-1  Running
 DRY-RUN MODE -  Container shop-web-1  Recreate
 DRY-RUN MODE -  Container shop-web-1  Recreated
 DRY-RUN MODE -  Container 6e4a69b5dcda_shop-web-1  Starting
 DRY-RUN MODE -  Container 6e4a69b5dcda_shop-web-1  Started
";

    /// Compose 5, by its source: the mark of a dry run stands before the same words, with one space between them.
    const COMPOSE_5: &str = "DRY-RUN MODE -  Container shop-db-1 Running
DRY-RUN MODE -  Container shop-web-1 Recreate
DRY-RUN MODE -  Container shop-web-1 Recreated
";

    fn of_shop(name: &str) -> bool {
        ["shop-web-1", "shop-db-1"].contains(&name)
    }

    #[test]
    fn each_version_tells_what_it_would_recreate() {
        for (version, output) in [("2.26", COMPOSE_2_26), ("2.40", COMPOSE_2_40), ("5", COMPOSE_5)] {
            assert_eq!(recreated(output, of_shop), Some(vec!["shop-web-1".to_owned()]), "{version}");
        }
    }

    #[test]
    fn nothing_to_recreate_is_an_answer() {
        assert_eq!(recreated(COMPOSE_2_40_UNCHANGED, of_shop), Some(Vec::new()));
    }

    #[test]
    fn a_dry_run_that_cannot_copy_files_is_told_from_one_that_fails() {
        let output = " DRY-RUN MODE -  Container shop-web-1  Recreate\n  DRY-RUN MODE -  Could not find the file / in container shop-web-1\n";
        assert!(gave_up_on_files(output));
        assert_eq!(recreated(output, of_shop), Some(vec!["shop-web-1".to_owned()]));
        assert!(!gave_up_on_files("Could not find the file / in container shop-web-1\n"));
        assert!(!gave_up_on_files(COMPOSE_2_26));
    }

    #[test]
    fn one_that_fails_at_an_unhealthy_old_container_has_said_what_it_would_recreate() {
        let output = " DRY-RUN MODE -  Container shop-web-1  Recreate
 DRY-RUN MODE -  Container shop-web-1  Recreated
 DRY-RUN MODE -  Container shop-db-1  Waiting
 DRY-RUN MODE -  Container shop-db-1  Error
dependency failed to start: container shop-db-1 is unhealthy
";
        assert!(is_through_with_recreating(output));
        assert!(!is_through_with_recreating(" DRY-RUN MODE -  Container shop-db-1  Recreate\nno more\n"));
        assert!(!is_through_with_recreating("error\n"));
    }

    #[test]
    fn silence_other_words_and_other_containers_are_none() {
        for output in [
            "",
            "time=\"…\" level=warning msg=\"The \\\"V\\\" variable is not set.\"\n",
            " Container shop-web-1  Ersetzen\n Container shop-db-1  Läuft\n",
            " DRY-RUN MODE -  Container other-web-1  Running\n",
            " DRY-RUN MODE -  Network shop_default  Created\n",
            "{\"dry-run\":true,\"id\":\"Container shop-web-1\",\"status\":\"Recreate\"}\n",
        ] {
            assert_eq!(recreated(output, of_shop), None, "{output}");
        }
    }
}
