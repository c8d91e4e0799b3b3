//! `import`: objects of a file into Weaviate, with vectors made in bulk.

use super::signals::termination;
use crate::config::ImportArgs;
use crate::error::{Error, Result};

/// Says at the end what is in; the exit code tells whether every row is.
pub(super) async fn import(args: ImportArgs) -> Result<()> {
    let (is_dry, collection) = (args.dry_run, args.collection.clone().unwrap_or_default());
    let goes_to_a_file = args.output.is_some();
    let summary = text2vec_import::run(args.options()?, termination).await;
    let summary = summary.map_err(|error| Error::config(error.message()))?;
    let (imported, seconds) = (summary.imported, summary.elapsed.as_secs_f64());
    let mut said = match (is_dry, goes_to_a_file) {
        (true, _) => format!("{imported} rows would be imported, nothing was"),
        (false, true) => format!("{imported} rows are written"),
        (false, false) => format!("{imported} rows are in {collection}"),
    };
    if summary.without_vector > 0 {
        said += &format!(", {} of them without a vector, as there is nothing in them to embed", summary.without_vector);
    }
    if summary.began_behind > 0 {
        said += &format!(", behind row {}", summary.began_behind);
    }
    eprintln!("{said}: {seconds:.1} s, {:.0} rows/s", summary.rate);
    match summary.failed {
        0 => Ok(()),
        1 => Err(Error::invalid("1 row could not be imported: see the line above")),
        failed => Err(Error::invalid(format!("{failed} rows could not be imported: see the lines above"))),
    }
}
