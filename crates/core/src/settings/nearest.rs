//! Did you mean …?

/// The known name that is nearest to a mistyped one, if one is near enough to be meant.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 3 + 1)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let known = ["drain", "gate", "services"];
        assert_eq!(nearest("drian", known), Some("drain"));
        assert_eq!(nearest("service", known), Some("services"));
        assert_eq!(nearest("volumes", known), None);
        assert_eq!(nearest("drain", []), None);
    }
}
