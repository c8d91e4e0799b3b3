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
    let config = HubConfig::from_env()?;
    let found = locate::download(&args.model, args.revision.as_deref(), args.dir.as_deref(), &config).await?;
    println!("{}", found.path.display());
    Ok(())
}
