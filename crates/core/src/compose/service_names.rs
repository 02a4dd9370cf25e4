//! Names of services, as Compose is given them. Compose takes no names for all services, so that a list that came out empty
//! would recreate what nobody has planned: an empty list cannot be made here.

/// Names of services, one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNames(Vec<String>);

impl ServiceNames {
    /// These services; `None` where there are none, and Compose has nothing to be called for.
    pub fn new(names: impl IntoIterator<Item = String>) -> Option<Self> {
        let names: Vec<String> = names.into_iter().collect();
        (!names.is_empty()).then_some(Self(names))
    }

    /// The names, one at least.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// The services that the user means with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of the project: the user has named none. The only call of Compose that has no names.
    All,
    /// These.
    Named(ServiceNames),
}

impl Asked {
    /// As the user has named them on the command line.
    pub fn by_user(names: &[String]) -> Self {
        ServiceNames::new(names.iter().cloned()).map_or(Self::All, Self::Named)
    }

    /// The arguments for Compose.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Named(names) => names.as_slice(),
        }
    }

    /// Whether a service is meant by its name.
    pub fn contains(&self, service: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.as_slice().iter().any(|name| name == service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_came_out_empty_is_no_list() {
        assert_eq!(ServiceNames::new([]), None);
        assert_eq!(ServiceNames::new(["web".to_owned()]).unwrap().as_slice(), ["web"]);
    }

    #[test]
    fn only_a_user_who_names_nothing_means_all() {
        assert_eq!(Asked::by_user(&[]), Asked::All);
        assert!(Asked::by_user(&[]).contains("db") && Asked::by_user(&[]).as_slice().is_empty());
        let web = Asked::by_user(&["web".to_owned()]);
        assert!(web.contains("web") && !web.contains("db"));
        assert_eq!(web.as_slice(), ["web"]);
    }
}
