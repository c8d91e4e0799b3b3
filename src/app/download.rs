//! `download`: a model for later.

use std::path::Path;

use crate::config::DownloadArgs;
use crate::error::{Error, Result};
use crate::model::hub::HubConfig;
use crate::model::locate;

pub(super) async fn download(args: DownloadArgs) -> Result<()> {
    let model = &args.model;
    if model.starts_with(['/', '.', '~']) || (args.dir.is_none() && Path::new(model).is_dir()) {
        return Err(Error::config(format!(
            "'{model}' is a directory, and download takes a Hub id such as sentence-transformers/all-MiniLM-L6-v2: to put its \
             files into a directory add --dir {model}; to serve a directory, --model {model}"
        )));
    }
    if let Some(dir) = args.dir.as_deref().filter(|dir| dir.exists() && !dir.is_dir()) {
        let message = format!("{} is a file: name a directory, which is made if need be", dir.display());
        return Err(Error::config(message).parameter("--dir"));
    }
    // A variable that nobody filled in says nothing.
    let revision = args.revision.as_deref().filter(|revision| !revision.is_empty());
    let config = HubConfig::from_env()?;
    let found = locate::download(&args.model, revision, args.dir.as_deref(), &config).await?;
    println!("{}", found.path.display());
    Ok(())
}
