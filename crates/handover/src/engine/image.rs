//! The image of the guard and the session helper: this very program, alone in a file system, imported into the engine.

use std::os::unix::fs::PermissionsExt;

use bollard::body_full;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};

use super::connect::Engine;
use crate::failure::{Exit, Failure, Result, engine_status};

const REPOSITORY: &str = "handover";
/// How old images of other builds are, by the engine's clock, before they are removed.
const UNUSED_FOR_S: i64 = 3600;

impl Engine {
    /// Reference of the image, imported if the engine does not have it. Images of other builds of this program that nothing
    /// uses are removed. May be repeated.
    pub(crate) async fn helper_image(&self) -> Result<String> {
        let _waiting = self.events.waiting();
        let program = self.outside.own_program().map_err(|error| {
            Failure::new(Exit::Engine, "handover cannot read its own program, which it runs beside the engine")
                .because(error)
        })?;
        let digest = Sha256::digest(&program);
        let tag: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let reference = format!("{REPOSITORY}:{tag}");
        match self.docker.inspect_image(&reference).await {
            Ok(_) => return Ok(reference),
            Err(error) if engine_status(&error) == Some(404) => {}
            Err(error) => return Err(error.into()),
        }
        if self.architecture != own_architecture() {
            return Err(Failure::new(
                Exit::Host,
                format!("the engine's host is {}, this program is for {}", self.architecture, own_architecture()),
            )
            .because("the guard beside the engine is this very program")
            .hint("run handover on a machine of the engine's architecture"));
        }
        self.import(&tag, &program).await?;
        self.remove_other_builds(&reference).await;
        Ok(reference)
    }

    async fn import(&self, tag: &str, program: &[u8]) -> Result<()> {
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(REPOSITORY.to_owned()),
            tag: Some(tag.to_owned()),
            ..Default::default()
        };
        let archive = archive(program)
            .map_err(|error| Failure::new(Exit::Engine, "the helper's image cannot be made").because(error))?;
        self.docker.create_image(Some(options), Some(body_full(archive.into())), None).try_collect::<Vec<_>>().await?;
        Ok(())
    }

    /// Best effort: an image that is still in use stays, and so does one that was imported lately: the deploy of another
    /// project, by another build, may be about to use it.
    async fn remove_other_builds(&self, kept: &str) {
        let filters = [("reference".to_owned(), vec![REPOSITORY.to_owned()])].into();
        let options = ListImagesOptions { filters: Some(filters), ..Default::default() };
        let Ok(images) = self.docker.list_images(Some(options)).await else {
            return;
        };
        let ours = images.iter().find(|image| image.repo_tags.iter().any(|tag| tag == kept));
        let now = ours.map_or(0, |image| image.created);
        let old = images.iter().filter(|image| image.created + UNUSED_FOR_S < now);
        for tag in old.flat_map(|image| &image.repo_tags) {
            let _ = self.docker.remove_image(tag, None::<RemoveImageOptions>, None).await;
        }
    }
}

fn archive(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(std::fs::Permissions::from_mode(0o755).mode());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "handover", program)?;
    builder.into_inner()
}

/// Architecture of this program, in the words of images.
fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
