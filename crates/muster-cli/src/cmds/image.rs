//! Logos and avatars: from a file to the hub, and back into a file.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use muster_proto::limits::{IMAGE_MAX, IMAGE_SIDE_MAX};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::confirm;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// What is done with an image.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Give it an image: PNG, JPEG or WebP, at most 256 KiB and 2048 x 2048 pixels
    #[command(after_help = "Examples:\n  muster org logo set acme.png\n  muster team avatar night-shift set owl.png")]
    Set {
        /// The image
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Write the image to a new file
    #[command(after_help = "Examples:\n  muster org logo save acme.png\n  muster team avatar night-shift save owl.png")]
    Save {
        /// The file, which must not be there yet
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Take the image away
    #[command(after_help = "Examples:\n  muster org logo remove\n  muster team avatar night-shift remove --yes")]
    Remove {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs it on the image at this path of the hub; `what` is whose it is, and `T` what the hub answers with.
///
/// # Errors
/// As every call, and when the file cannot be read or written.
pub async fn run<T: DeserializeOwned + Serialize>(context: &Context, command: ImageCommand, path: &str, what: &str) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match command {
        ImageCommand::Set { file } => {
            let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot read {}: {error}", file.display()));
            // Not read into memory before its size is known: it may be a film, or a device.
            let length = std::fs::metadata(&file).map_err(failed)?.len();
            if length > IMAGE_MAX as u64 {
                let why = format!("{} has {} KiB; an image has at most {}", file.display(), length.div_ceil(1024), IMAGE_MAX / 1024);
                return Err(Failure::usage(why).hint(format!("make it smaller, at most {IMAGE_SIDE_MAX} x {IMAGE_SIDE_MAX} pixels")));
            }
            let bytes = std::fs::read(&file).map_err(failed)?;
            // The hub looks at the bytes, whatever they are called.
            let answer: T = hub.put_bytes(path, "application/octet-stream", &bytes).await?;
            out.done(&answer, format!("{what} now has the image {}.", file.display()))?;
        }
        ImageCommand::Save { file } => {
            let bytes = hub.get_bytes(path).await?;
            let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", file.display()));
            let mut new = OpenOptions::new().write(true).create_new(true).open(&file).map_err(failed)?;
            new.write_all(&bytes).map_err(failed)?;
            out.line(format!("Wrote {} bytes to {}.", bytes.len(), file.display()))?;
        }
        ImageCommand::Remove { yes } => {
            confirm(yes, &format!("Take the image of {what} away?"))?;
            hub.delete(path).await?;
            out.line(format!("{what} has no image."))?;
        }
    }
    Ok(0)
}

/// A text of a change: what was not given stays, an empty one is cleared.
pub fn changed(given: Option<String>) -> Option<Option<String>> {
    given.map(|text| if text.is_empty() { None } else { Some(text) })
}
