//! Text of others (log lines, Compose's lines, names) on its way to a terminal or a CI log, both of which obey some of what they
//! are shown: escape sequences, GitLab's sections, Azure's commands.

/// What CI systems take for an order, and what stands there instead.
const ORDERS: [(&str, &str); 4] =
    [("section_start:", "section_start :"), ("section_end:", "section_end :"), ("##vso[", "## vso["), ("##[", "## [")];

/// The text as it may be shown: without control characters (tabs and ends of lines stay), and with orders broken.
pub(super) fn harmless(text: &str) -> String {
    let mut shown: String = text.chars().filter(|one| matches!(one, '\t' | '\n') || !one.is_control()).collect();
    for (order, broken) in ORDERS {
        if shown.contains(order) {
            shown = shown.replace(order, broken);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(harmless("a\u{1b}[2Jb\u{7}\u{9b}31m\r\tc\nd"), "a[2Jb31m\tc\nd");
    }

    #[test]
    fn a_ci_log_is_not_told_what_to_do() {
        assert_eq!(harmless("x\u{1b}[0Ksection_end:1:handover_1_images\r"), "x[0Ksection_end :1:handover_1_images");
        assert_eq!(harmless("##vso[task.setvariable]x ##[error]y"), "## vso[task.setvariable]x ## [error]y");
        // What a control character kept apart is whole only after it is gone.
        assert_eq!(harmless("##v\u{0}so[x"), "## vso[x");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        assert_eq!(harmless("web läuft: 100 % – #1 [ok]"), "web läuft: 100 % – #1 [ok]");
    }
}
