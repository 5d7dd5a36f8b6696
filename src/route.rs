//! From a path to what answers it: the most specific pattern wins.

use crate::{
    connection::Handler,
    error::{Error, Result},
    request::Request,
    response::Response,
};
use std::{fmt, rc::Rc};

pub(crate) type Page = Rc<dyn Fn(&Request) -> Response>;
pub(crate) type Guard = Box<dyn Fn(&Request) -> std::result::Result<(), Response>>;

/// The WebSocket handlers and the pages of a server. A path may have both.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) handlers: Table<Handler>,
    pub(crate) pages: Table<Page>,
    /// Who may have a WebSocket.
    pub(crate) guard: Option<Guard>,
}

impl Routes {
    pub(crate) fn check(&self) -> Result<()> {
        self.handlers.check()?;
        self.pages.check()
    }
}

/// Patterns with what stands at them.
pub(crate) struct Table<T>(Vec<(Pattern, T)>);

/// How well a pattern fits a path: an exact one better than a prefix, a long prefix better than a short one.
pub(crate) type Fit = (bool, usize);

impl<T> Table<T> {
    pub(crate) fn add(&mut self, path: &str, target: T) {
        self.0.push((Pattern(path.into()), target));
    }

    /// What stands at the pattern that fits `path` best.
    pub(crate) fn find(&self, path: &str) -> Option<(Fit, &T)> {
        self.0
            .iter()
            .filter_map(|(pattern, target)| Some((pattern.fit(path)?, target)))
            .max_by_key(|(fit, _)| *fit)
    }

    fn check(&self) -> Result<()> {
        for (i, (pattern, _)) in self.0.iter().enumerate() {
            pattern.check()?;
            if self.0[..i].iter().any(|(other, _)| other.0 == pattern.0) {
                return Err(pattern.error("each path stands once"));
            }
        }
        Ok(())
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A path, or the beginning of paths where it ends in `/*`.
struct Pattern(Box<str>);

impl Pattern {
    fn fit(&self, path: &str) -> Option<Fit> {
        match self.0.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix).then_some((false, prefix.len())),
            None => (*self.0 == *path).then_some((true, path.len())),
        }
    }

    fn check(&self) -> Result<()> {
        let path = &*self.0;
        let fixed = path.strip_suffix("/*").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(self.error("a path begins with /"));
        }
        if fixed.contains('*') {
            return Err(self.error("a * stands only at the end, after a /"));
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains(['?', '#']) {
            return Err(self.error("a path has only visible ASCII characters, neither ? nor #; write others percent-encoded"));
        }
        Ok(())
    }

    fn error(&self, rule: &'static str) -> Error {
        Error::Route {
            path: self.0.to_string(),
            rule,
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes")
            .field("handlers", &self.handlers)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(pattern, _)| &pattern.0))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(paths: &[&'static str]) -> Table<&'static str> {
        let mut table = Table::default();
        paths.iter().for_each(|path| table.add(path, *path));
        table
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let table = table(&["/*", "/a/*", "/a/b", "/a/b/*"]);
        let found = |path| table.find(path).map(|(_, target)| *target);
        assert_eq!(found("/"), Some("/*"));
        assert_eq!(found("/a"), Some("/*"));
        assert_eq!(found("/a/"), Some("/a/*"));
        assert_eq!(found("/a/b"), Some("/a/b"));
        assert_eq!(found("/a/b/c"), Some("/a/b/*"));
        assert_eq!(found("/ab"), Some("/*"));
    }

    #[test]
    fn a_path_without_a_pattern_has_nothing() {
        assert!(table(&["/ws"]).find("/ws/").is_none());
    }

    #[test]
    fn bad_paths_are_named() {
        for path in ["ws", "", "/a*", "/*/b", "/a b", "/é", "/a?b"] {
            assert!(
                matches!(table(&[path]).check(), Err(Error::Route { .. })),
                "{path:?}"
            );
        }
        assert_eq!(
            table(&["/ws", "/ws"]).check().unwrap_err().to_string(),
            "path \"/ws\": each path stands once"
        );
        assert!(table(&["/", "/*", "/a%20b", "/a/*"]).check().is_ok());
    }
}
