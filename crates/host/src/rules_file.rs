//! The guard's memory: the loaded table, as JSON, in the guard's own root. It survives a restart of the engine and of
//! the host, and goes with the container.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use handover_core::redirect::ports::PortTable;

use crate::error::HostError;

/// Where a guard keeps its table.
#[derive(Clone, Debug)]
pub(crate) struct RulesFile {
    path: PathBuf,
}

impl RulesFile {
    pub(crate) fn at(path: &Path) -> Self {
        RulesFile { path: path.to_owned() }
    }

    fn error(&self, doing: &'static str) -> impl FnOnce(io::Error) -> HostError {
        let path = self.path.clone();
        move |source| HostError::RulesFile { doing, path, source }
    }

    /// The table that was written last; none if there is no file.
    pub(crate) fn read(&self) -> Result<Option<PortTable>, HostError> {
        match fs::read(&self.path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from).map_err(self.error("reading"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("reading")(error)),
        }
    }

    /// Replaces the file as a whole: whoever reads it, at any time and after any crash, finds the old or the new one.
    pub(crate) fn write(&self, table: &PortTable) -> Result<(), HostError> {
        let temporary = self.path.with_extension("new");
        let written = (|| {
            let bytes = serde_json::to_vec(table)?;
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            self.sync_directory()
        })();
        written.map_err(self.error("writing"))
    }

    /// Removes the file; it may be gone already.
    pub(crate) fn remove(&self) -> Result<(), HostError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("removing")(error)),
            _ => self.sync_directory().map_err(self.error("removing")),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}
