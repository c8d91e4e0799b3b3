//! An import from its beginning to its end.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::checkpoint::{Before, Checkpoint, State, content};
use crate::chunk::{Chunk, Failed};
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::failed::FailedRows;
use crate::files::refuse_to_write_over_what_is_read;
use crate::growing::Growing;
use crate::options::Options;
use crate::outage::Outage;
use crate::output::Output;
use crate::progress::Progress;
use crate::properties::on_the_wire;
use crate::reader;
use crate::sidecar::{Made, Sidecar, with_model_of_url};
use crate::source::{self, Total, is_standard_input};
use crate::transport::read_ca;
use crate::weaviate::{Entry, Weaviate};

/// Chunks that are embedded at once: the sidecar has work while a stream ends and another one begins.
const EMBEDDING: usize = 3;

/// Chunks that are inserted at once.
const INSERTING: usize = 2;

/// What an import came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Rows of this run that are in.
    pub imported: u64,
    /// Those among them without a vector: there was nothing to embed.
    pub without_vector: u64,
    /// Rows that could not go in, those of a run before that this one went on with included.
    pub failed: u64,
    /// The row that this run began behind.
    pub began_behind: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Rows in each second.
    pub rate: f64,
}

/// Everything that chunks need on their way.
struct Way {
    options: Options,
    /// The class as it was at the beginning, by which the file is read.
    collection: Collection,
    /// The class as it is by now.
    growing: Growing,
    sidecar: Sidecar,
    sidecar_outage: Outage,
    weaviate_outage: Outage,
    sink: Sink,
    /// Rows that a run before this one may have left half done.
    doubt: (u64, u64),
    /// The row that this run begins behind.
    began_behind: u64,
}

/// Where objects go.
enum Sink {
    Weaviate(Box<Weaviate>),
    Output(Output),
    /// To try an import out.
    Nothing,
}

/// A chunk with its vectors.
struct Embedded {
    chunk: Chunk,
    entries: Vec<Entry>,
    /// The class that they were embedded by.
    collection: Arc<Collection>,
}

/// A chunk that is in.
struct Inserted {
    rows_to_here: u64,
    position: u64,
    imported: u64,
    without_vector: u64,
    failed: Vec<Failed>,
    /// The last object of the chunk, and its tenant.
    last: Option<(String, String)>,
}

/// Imports a file. Ends early once what `stop` makes is ready, with what is under way to Weaviate done and noted; a second time
/// at once.
///
/// # Errors
/// What keeps the import from its end, in one line. What was inserted until then is in; the same call goes on behind it.
pub async fn run<S: Future<Output = ()>>(options: Options, stop: impl Fn() -> S) -> Result<Summary> {
    let options = Options { sidecar: with_model_of_url(options.sidecar)?, ..options };
    refuse_to_write_over_what_is_read(&options)?;
    let ca = read_ca(options.ca.as_deref())?;
    let weaviate_outage = Outage::new("Weaviate", options.max_outage);
    let (weaviate, collection) = match &options.class_file {
        Some(path) => {
            let collection = Collection::of_file(path)?;
            collection.is_named(&options.collection)?;
            (None, collection)
        }
        None => {
            let weaviate = Weaviate::new(&options.weaviate, ca.as_deref())?;
            let collection = weaviate.collection(&options.collection).await?;
            (Some(weaviate), collection)
        }
    };
    let (mut rows, total) = source::open(&options.source, &collection)?;
    let sidecar = Sidecar::new(&options.sidecar, ca.as_deref())?;
    let sidecar_outage = Outage::new("the sidecar", options.max_outage);
    let fingerprint = sidecar.fingerprint(&sidecar_outage).await?;
    let is_resumable = !(options.dry_run || options.output.is_some() || is_standard_input(&options.source.path));
    let folder = options.checkpoints.as_deref().filter(|_| is_resumable);
    let (checkpoint, mut state, doubt) = match (folder, &weaviate) {
        (Some(folder), Some(weaviate)) => {
            begin(folder, &options, &fingerprint, weaviate, &collection, &weaviate_outage).await?
        }
        _ => (None, State::new(String::new(), fingerprint), (0, 0)),
    };
    let failed_path = options.failed.as_deref().filter(|_| !options.dry_run);
    let failed_rows = FailedRows::open(failed_path, (state.done > 0).then_some(state.failed_bytes))?;
    state.failed_bytes = failed_rows.bytes();
    if !collection.others.is_empty() && options.output.is_none() {
        let others = collection.others.join(", ");
        eprintln!("{others} of {}: not made here, but by Weaviate or by nobody, as the class says", collection.name);
    }
    let sink = match (&options.output, weaviate) {
        _ if options.dry_run => Sink::Nothing,
        (Some(path), _) => Sink::Output(Output::open(path, options.overwrite)?),
        (None, Some(weaviate)) => Sink::Weaviate(Box::new(weaviate)),
        (None, None) => {
            return Err(Error::new("a class from a file needs --output: without Weaviate nothing can go into it"));
        }
    };
    let began_behind = state.done;
    let growing = Growing::new(collection.clone());
    let way = Way { options, collection, growing, sidecar, sidecar_outage, weaviate_outage, sink, doubt, began_behind };
    let way = Arc::new(way);
    let began_at = if let Total::Rows(_) = total { began_behind } else { state.position };
    let mut progress = Progress::new(total, began_at);
    way.sidecar_outage.tell_above(progress.bar());
    way.weaviate_outage.tell_above(progress.bar());
    let (send, chunks) = mpsc::channel(1);
    let reading = {
        let way = way.clone();
        tokio::task::spawn_blocking(move || {
            reader::read(&mut *rows, began_behind, &way.options, &way.collection, &send)
        })
    };
    let mut course =
        Course { way, checkpoint, state, failed_rows, progress: &mut progress, imported: 0, without_vector: 0 };
    let outcome = match course.way.options.dry_run {
        true => course.try_out(chunks).await,
        false => course.follow(chunks, stop).await,
    };
    course.progress.end();
    // Of an import that ends early the reader is not waited for: it may be waiting for somebody's input.
    outcome?;
    reading
        .await
        .map_err(|_| Error::new("the file could not be read to its end because of a bug: please report it"))?;
    Ok(course.end())
}

/// The checkpoint of this import, from where it goes on, and which rows may be half done.
async fn begin(
    folder: &std::path::Path,
    options: &Options,
    fingerprint: &str,
    weaviate: &Weaviate,
    collection: &Collection,
    outage: &Outage,
) -> Result<(Option<Checkpoint>, State, (u64, u64))> {
    let content = content(&options.source.path)?;
    let (checkpoint, before) = Checkpoint::open(folder, options, &collection.name)?;
    let new = State::new(content.clone(), fingerprint.to_owned());
    let before = match before {
        Before::State(before) => before,
        Before::Nothing => return Ok((Some(checkpoint), new, (0, 0))),
        Before::Unreadable => {
            eprintln!(
                "an import of this file was broken off, and how far it was cannot be read below {}: this one begins at \
                 its beginning",
                folder.display()
            );
            // Any row may be half done.
            let mut state = new;
            state.sent = u64::MAX;
            return Ok((Some(checkpoint), state, (0, u64::MAX)));
        }
    };
    let doubt = (before.done, before.sent);
    // What is in doubt stays so, however often this one is broken off itself.
    let anew = |doubt: (u64, u64)| {
        let mut state = new.clone();
        state.sent = doubt.1;
        state
    };
    if !before.is_of(&content) {
        eprintln!("the file has changed since an import of it was broken off: this one begins at its beginning");
        // Its rows have other numbers now.
        let doubt = if before.sent > before.done { (0, u64::MAX) } else { (0, 0) };
        return Ok((Some(checkpoint), anew(doubt), doubt));
    }
    if options.restart {
        return Ok((Some(checkpoint), anew(doubt), doubt));
    }
    if before.fingerprint != fingerprint {
        return Err(Error::new(format!(
            "the sidecar has another model or other settings than when this import began (fingerprint {fingerprint}, then \
             {}), and vectors of both would not fit together: serve the same model, or begin anew by --restart",
            before.fingerprint
        )));
    }
    let mut missing = Vec::new();
    for sample in &before.samples {
        missing.push(!weaviate.has(&collection.name, &sample.id, &sample.tenant, outage).await?);
    }
    if !missing.is_empty() && missing.iter().all(|&missing| missing) {
        eprintln!("nothing of the import that was broken off is in {} any more: this one begins anew", collection.name);
        return Ok((Some(checkpoint), new, (0, 0)));
    }
    if missing.last() == Some(&true) {
        return Err(Error::new(format!(
            "{} has lost objects that an import before had inserted, its last ones among them: begin anew by --restart \
             (what is there is replaced, not doubled)",
            collection.name
        )));
    }
    eprintln!("going on behind row {} (begin anew: --restart)", before.done);
    if before.failed > 0 {
        eprintln!("{} rows before it have failed and are not tried again", before.failed);
    }
    Ok((Some(checkpoint), before, doubt))
}

/// An import under way, from the side of who counts.
struct Course<'a> {
    way: Arc<Way>,
    checkpoint: Option<Checkpoint>,
    state: State,
    failed_rows: FailedRows,
    progress: &'a mut Progress,
    imported: u64,
    without_vector: u64,
}

impl Course<'_> {
    /// Takes chunks to their end, several at once, and notes them in their order.
    async fn follow<S: Future<Output = ()>>(
        &mut self,
        mut chunks: mpsc::Receiver<Result<Chunk>>,
        stop: impl Fn() -> S,
    ) -> Result<()> {
        let mut stopped = pin!(stop());
        let mut embedding: VecDeque<JoinHandle<Result<Embedded>>> = VecDeque::new();
        let mut inserting: VecDeque<JoinHandle<Result<Inserted>>> = VecDeque::new();
        let (mut has_ended, mut is_stopped) = (false, false);
        // Of the first thing that went wrong; what is on its way to Weaviate is waited for all the same.
        let mut problem = None;
        // What keeps the file from being read on; rows before that go in all the same.
        let mut unreadable = None;
        let at_once = match &self.way.sink {
            Sink::Weaviate(_) => INSERTING,
            // Lines stay in the file's order.
            Sink::Output(_) | Sink::Nothing => 1,
        };
        while !(has_ended && embedding.is_empty() && inserting.is_empty()) {
            tokio::select! {
                biased;
                inserted = first(&mut inserting), if !inserting.is_empty() => match inserted {
                    Ok(inserted) if problem.is_none() => problem = self.note(inserted).err(),
                    Ok(_) => {}
                    Err(error) => problem = problem.or(Some(error)),
                },
                () = &mut stopped => {
                    if is_stopped {
                        break;
                    }
                    (is_stopped, has_ended) = (true, true);
                    stopped.set(stop());
                }
                embedded = first(&mut embedding), if !embedding.is_empty() && inserting.len() < at_once => match embedded {
                    Ok(embedded) => match self.announce(&embedded) {
                        Ok(()) => inserting.push_back(tokio::spawn(insert(self.way.clone(), embedded))),
                        Err(error) => problem = problem.or(Some(error)),
                    },
                    Err(error) => problem = problem.or(Some(error)),
                },
                chunk = chunks.recv(), if !has_ended && embedding.len() < EMBEDDING => match chunk {
                    Some(Ok(chunk)) => embedding.push_back(tokio::spawn(embed(self.way.clone(), chunk))),
                    Some(Err(error)) => (unreadable, has_ended) = (Some(error), true),
                    None => has_ended = true,
                },
            }
            if problem.is_some() || is_stopped {
                has_ended = true;
                chunks.close();
                embedding.drain(..).for_each(|task| task.abort());
            }
        }
        // The reader may wait for room.
        drop(chunks);
        let behind = match &self.checkpoint {
            Some(_) => format!("; what is in stays in, and the same command goes on behind row {}", self.state.done),
            None => String::new(),
        };
        match (problem.or(unreadable), is_stopped) {
            (Some(error), _) => Err(Error::new(format!("{error}{behind}"))),
            (None, true) => Err(Error::new(format!("stopped{behind}"))),
            (None, false) => Ok(()),
        }
    }

    /// Notes on disk that rows are about to be sent, before they are.
    fn announce(&mut self, embedded: &Embedded) -> Result<()> {
        self.state.sent = self.state.sent.max(embedded.chunk.rows_to_here);
        self.write()
    }

    /// Notes that a chunk is in.
    fn note(&mut self, inserted: Inserted) -> Result<()> {
        let Inserted { rows_to_here, position, imported, without_vector, failed, last } = inserted;
        // Too many: the chunk does not count as done, so that its rows are tried again once something was mended.
        self.tell(&failed)?;
        self.failed_rows.add(&failed)?;
        self.state.failed_bytes = self.failed_rows.bytes();
        self.state.done = rows_to_here;
        self.state.position = position;
        if let Some((id, tenant)) = last {
            self.state.sample(&id, &tenant);
        }
        self.imported += imported;
        self.without_vector += without_vector;
        self.state.failed += failed.len() as u64;
        self.progress.done(imported + failed.len() as u64, position);
        self.write()
    }

    /// Says which rows failed, and ends the import when they are too many.
    fn tell(&self, failed: &[Failed]) -> Result<()> {
        let most = usize::try_from(self.way.options.max_errors).unwrap_or(usize::MAX);
        for row in failed.iter().take(most) {
            let is_lost = self.way.options.failed.is_some() && !self.way.options.dry_run && row.line.is_none();
            let kept = if is_lost { "; --failed does not keep it" } else { "" };
            self.progress.say(&format!("row {}: {}{kept}", row.number, row.reason));
        }
        let all = self.state.failed + failed.len() as u64;
        match !failed.is_empty() && all >= self.way.options.max_errors {
            true => Err(Error::new(format!(
                "{all} rows could not be imported, and --max-errors allows no more: mend what the lines above say, or raise it"
            ))),
            false => Ok(()),
        }
    }

    fn write(&self) -> Result<()> {
        self.checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.write(&self.state))
    }

    /// Reads and checks every row, and has the first chunk embedded.
    async fn try_out(&mut self, mut chunks: mpsc::Receiver<Result<Chunk>>) -> Result<()> {
        let mut is_first = true;
        while let Some(chunk) = chunks.recv().await {
            let mut chunk = chunk?;
            let class = &self.way.collection.properties;
            let objects = chunk.objects.iter();
            let unfit: Vec<_> = objects
                .filter_map(|object| on_the_wire(&object.properties, class).err().map(|reason| object.failed(reason)))
                .collect();
            let rows = chunk.objects.len() as u64;
            let mut failed = std::mem::take(&mut chunk.failed);
            failed.extend(unfit.iter().cloned());
            let unfit = unfit.len() as u64;
            if std::mem::take(&mut is_first) && !chunk.objects.is_empty() {
                let began = Instant::now();
                let embedded =
                    embed(self.way.clone(), Chunk { objects: chunk.objects.clone(), ..Chunk::default() }).await?;
                let made = |entry: &&Entry| entry.vectors.iter().any(|made| matches!(made, Made::Vector(_)));
                let vectors = embedded.entries.iter().filter(made).count();
                self.progress.say(&format!(
                    "the first {rows} rows: {vectors} with vectors, in {:.1} s ({:.0} rows/s)",
                    began.elapsed().as_secs_f64(),
                    rows as f64 / began.elapsed().as_secs_f64().max(1e-3)
                ));
            }
            self.imported += rows - unfit;
            self.progress.done(rows, chunk.position);
            self.tell(&failed)?;
            self.state.failed += failed.len() as u64;
        }
        Ok(())
    }

    fn end(self) -> Summary {
        let summary = Summary {
            imported: self.imported,
            without_vector: self.without_vector,
            failed: self.state.failed,
            began_behind: self.way.began_behind,
            elapsed: self.progress.elapsed(),
            rate: self.progress.rate(),
        };
        if let Some(checkpoint) = self.checkpoint {
            checkpoint.remove();
        }
        summary
    }
}

/// Waits for the first of these, and takes it out.
async fn first<T>(tasks: &mut VecDeque<JoinHandle<Result<T>>>) -> Result<T> {
    let Some(task) = tasks.front_mut() else { return std::future::pending().await };
    let done = task.await;
    tasks.pop_front();
    done.unwrap_or_else(|_| Err(Error::new("a part of the import ended by a bug: please report it")))
}

async fn embed(way: Arc<Way>, mut chunk: Chunk) -> Result<Embedded> {
    let mut objects = std::mem::take(&mut chunk.objects);
    let collection = match way.options.allow_new_properties {
        false => way.growing.now().await,
        true => {
            let weaviate = if let Sink::Weaviate(weaviate) = &way.sink { Some(&**weaviate) } else { None };
            let (collection, failed) = way.growing.grow(&mut objects, weaviate, &way.weaviate_outage).await?;
            chunk.failed.extend(failed);
            collection
        }
    };
    let vectorize = |target| way.sidecar.vectorize(&collection, &objects, target, &way.sidecar_outage);
    let of_targets = collection.targets.iter().map(vectorize);
    let made = try_join_all(of_targets).await.map_err(Error::new)?;
    let mut made: Vec<_> = made.into_iter().map(Vec::into_iter).collect();
    let entries = objects.into_iter().map(|object| {
        let vectors = made.iter_mut().filter_map(Iterator::next).collect();
        Entry { object, vectors }
    });
    let entries = entries.collect();
    Ok(Embedded { chunk, entries, collection })
}

async fn insert(way: Arc<Way>, embedded: Embedded) -> Result<Inserted> {
    let Embedded { chunk, mut entries, collection } = embedded;
    let mut failed = chunk.failed;
    let (from, to) = way.doubt;
    let is_doubtful = entries.iter().any(|entry| (from + 1..=to).contains(&entry.object.number));
    if let Sink::Weaviate(weaviate) = &way.sink {
        let create = way.options.create_tenants;
        let tenants: BTreeSet<String> = entries.iter().map(|entry| entry.object.tenant.clone()).collect();
        for tenant in tenants.iter().filter(|tenant| !tenant.is_empty() && !collection.makes_tenants) {
            if let Err(reason) = weaviate.ensure_tenant(&collection, tenant, create, &way.weaviate_outage).await? {
                let (of_it, others) = entries.into_iter().partition(|entry: &Entry| entry.object.tenant == *tenant);
                entries = others;
                failed.extend(Vec::into_iter(of_it).map(|entry: Entry| entry.object.failed(reason.clone())));
            }
        }
    }
    let without_vector = |entry: &&Entry| entry.vectors.iter().all(|made| matches!(made, Made::Nothing));
    let numbers_without: Vec<u64> = entries.iter().filter(without_vector).map(|entry| entry.object.number).collect();
    let sent: Vec<_> = entries
        .iter()
        .map(|entry| (entry.object.number, entry.object.id.clone(), entry.object.tenant.clone()))
        .collect();
    let refused = match &way.sink {
        Sink::Weaviate(weaviate) => weaviate.insert(&collection, entries, is_doubtful, &way.weaviate_outage).await,
        Sink::Output(output) => output.write(&collection, entries),
        Sink::Nothing => Ok(Vec::new()),
    };
    let refused = refused.map_err(Error::new)?;
    let is_in = |number: u64| refused.iter().all(|row| row.number != number);
    let last =
        sent.iter().rev().find(|(number, ..)| is_in(*number)).map(|(_, id, tenant)| (id.clone(), tenant.clone()));
    let inserted = Inserted {
        rows_to_here: chunk.rows_to_here,
        position: chunk.position,
        imported: (sent.len() - refused.len()) as u64,
        without_vector: numbers_without.iter().filter(|number| is_in(**number)).count() as u64,
        last,
        failed: Vec::new(),
    };
    failed.extend(refused);
    failed.sort_unstable_by_key(|row| row.number);
    Ok(Inserted { failed, ..inserted })
}
