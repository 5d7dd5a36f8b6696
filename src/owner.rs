//! Users and groups by their names, as `/etc/passwd` and `/etc/group` have them.

use std::fs;

/// Whose a file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: Option<u32>,
}

impl Owner {
    /// What `USER` or `USER:GROUP` means here.
    pub(crate) fn of(text: &str) -> Result<Self, &'static str> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Ok(Self {
            user: id(user, "/etc/passwd").ok_or("there is no such user in /etc/passwd")?,
            group: match group {
                Some(group) => {
                    Some(id(group, "/etc/group").ok_or("there is no such group in /etc/group")?)
                }
                None => None,
            },
        })
    }
}

/// The number of a name, or one that is a number already.
fn id(name: &str, database: &str) -> Option<u32> {
    name.parse()
        .ok()
        .or_else(|| look_up(name, &fs::read_to_string(database).ok()?))
}

/// Both files have a name, a password and a number in each line (passwd(5), group(5)).
fn look_up(name: &str, lines: &str) -> Option<u32> {
    let mut found = lines
        .lines()
        .map(|line| line.split(':'))
        .filter_map(|mut fields| Some((fields.next()?, fields.nth(1)?)));
    found.find(|(other, _)| *other == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_owners() {
        let owner = |user, group| Ok(Owner { user, group });
        assert_eq!(Owner::of("1000"), owner(1000, None));
        assert_eq!(Owner::of("0:33"), owner(0, Some(33)));
        assert_eq!(Owner::of("root"), owner(0, None));
        assert_eq!(Owner::of("root:0"), owner(0, Some(0)));
        for bad in ["", ":", "0:", ":0", "no such user", "0:no such group", "-1"] {
            assert!(Owner::of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_looked_up_whole() {
        let group = "root:x:0:\nwww-data:x:33:pi,www\n\nbroken\nwww:x:80:\n";
        assert_eq!(look_up("www", group), Some(80));
        assert_eq!(look_up("www-data", group), Some(33));
        for none in ["", "pi", "broken", "x"] {
            assert_eq!(look_up(none, group), None, "{none:?}");
        }
    }
}
