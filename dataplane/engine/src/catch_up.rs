//! Purges that this node was not told of: while it was down, or could not be reached. They are in the purge log
//! (`tidegate_contract::purge_log`), which is looked at before the node serves, and whenever the file has changed.
//!
//! What a node was told of on its admin port it applies at once and remembers by the order's id, in the roll, so that the log
//! does not make it purge the same again later. How far it has followed the log is noted there, too, once the journals of all
//! devices have what was said up to there: after a crash in between some purges are done twice.
//!
//! Must stay true: a purge of the log that the node has not done holds before the node answers its first request; where the
//! log does not reach back far enough, or is gone, all that is stored is stale (gone, where hard purges were lost).

use crate::clock::now_ms;
use crate::orders;
use crate::purge::{ROLL_SPAN_MAX, Receipt, issue_on};
use crate::stores::Stores;
use crate::view::View;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidegate_cache::purge::{Mode, Purge, Target};
use tidegate_contract::{Missed, PurgeLog, PurgePlace};
use tidegate_ring::timeout;

/// What the log was found to be.
#[derive(Debug)]
pub enum Found {
    Log(PurgeLog),
    /// There is none.
    Nothing,
    /// There is one that cannot be used.
    Refused,
}

/// What following the log came to, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaughtUp {
    /// So many purges were news.
    Purges(usize),
    /// Besides, others were lost: all that is stored is stale, or gone.
    Lost(Mode),
    /// The file is older than what this node knows.
    Older,
}

/// How far this node is.
#[derive(Debug, Default)]
pub struct CatchUp {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    place: Option<PurgePlace>,
    /// What the journals have not written yet.
    receipts: Vec<Arc<Receipt>>,
    /// Orders that the log has, and that were done before; noted with the place.
    met: Vec<String>,
    /// `place` is not noted yet.
    is_unnoted: bool,
    /// Orders that this node was told of lately, and that the log may not have shown yet.
    recent: VecDeque<(String, Arc<Receipt>)>,
    /// A journal did not take a purge: this place is not noted, nor any later one, in this run.
    has_failed: bool,
}

/// Orders that are remembered, and how long their ids may be: what is not is done twice, which hurts nobody.
const RECENT_MAX: usize = 256;
const ID_BYTES_MAX: usize = 128;

impl State {
    /// What came of an order that this node was told of; the log has it now, and that is the end of it.
    fn take_told(&mut self, id: &str) -> Option<Arc<Receipt>> {
        let (_, receipt) = self.recent.remove(self.recent.iter().position(|told| told.0 == id)?)?;
        (!receipt.has_failed()).then_some(receipt)
    }
}

impl CatchUp {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has an order that this node is told of done; the purge's number and receipt. Whatever the log had done before: parents are told
/// before edges, which may have got from them since what they had still.
pub fn begin_told(
    stores: &Stores,
    id: &str,
    issue: impl FnOnce() -> (u64, Arc<Receipt>),
) -> (u64, Arc<Receipt>) {
    let mut state = stores.catch_up.state(); // nobody looks at the log meanwhile
    let (number, receipt) = issue();
    if !id.is_empty() && id.len() <= ID_BYTES_MAX {
        if state.recent.len() == RECENT_MAX {
            state.recent.pop_front();
        }
        state.recent.push_back((id.to_owned(), receipt.clone()));
    }
    (number, receipt)
}

/// An order was done, and the journals have it. Waits a while for the roll to say so: when it does not, the log has the order
/// done once more, which hurts nobody.
pub async fn told(stores: &Stores, id: &str) {
    let _done_twice = timeout(ROLL_SPAN_MAX, stores.note_told(id).wait()).await;
}

/// Before the node serves: what the log says since this node has last looked. Gives what there is to tell.
pub fn begin(stores: &Stores, view: &View, found: &Found) -> Option<CaughtUp> {
    if stores.devices().is_empty() {
        // Nothing is here that could have been purged.
        if let Found::Log(log) = found {
            stores.catch_up.state().place = Some(log.place());
        }
        return None;
    }
    let place = stores.purge_place().as_deref().and_then(PurgePlace::decode);
    stores.catch_up.state().place = place;
    match found {
        Found::Log(log) => Some(follow(stores, view, log)),
        Found::Nothing if place.is_none() => None,
        Found::Nothing | Found::Refused => {
            let receipt = purge_all(stores, Mode::Soft);
            let mut state = stores.catch_up.state();
            state.receipts.push(receipt);
            // As long as there is no log, each start asks about everything once.
            Some(CaughtUp::Lost(Mode::Soft))
        }
    }
}

/// Does what `log` says and this node has not done.
pub fn follow(stores: &Stores, view: &View, log: &PurgeLog) -> CaughtUp {
    let mut state = stores.catch_up.state();
    let mut lost = None;
    let from = match log.missed_since(state.place) {
        Missed::From(from) => from,
        Missed::Older => return CaughtUp::Older,
        Missed::Lost { hard } => {
            let mode = if hard { Mode::Hard } else { Mode::Soft };
            state.receipts.push(purge_all(stores, mode));
            lost = Some(mode);
            0
        }
    };
    let mut news = 0;
    for entry in log.entries(from) {
        let Some(logged) = orders::logged(view, &entry.order) else { continue };
        let told = state.take_told(&logged.id);
        if stores.is_told(&logged.id) {
            state.met.push(logged.id);
            continue;
        }
        if let Some(receipt) = told {
            state.receipts.push(receipt); // the place is not noted before it is on disk
            continue;
        }
        let (_, receipt) = issue_on(stores, &logged.service, logged.handle, logged.mode);
        state.receipts.push(receipt);
        news += 1;
    }
    if state.place != Some(log.place()) {
        (state.place, state.is_unnoted) = (Some(log.place()), true);
    }
    lost.map_or(CaughtUp::Purges(news), CaughtUp::Lost)
}

/// Notes how far this node is, once all journals have what was said up to there. To be called now and then.
pub fn tend(stores: &Stores) {
    let mut state = stores.catch_up.state();
    let mut has_failed = false;
    state.receipts.retain(|receipt| {
        has_failed |= receipt.has_failed();
        !receipt.is_good() && !receipt.has_failed()
    });
    state.has_failed |= has_failed;
    if state.is_unnoted && state.receipts.is_empty() && !state.has_failed {
        state.is_unnoted = false;
        let met = std::mem::take(&mut state.met);
        if let Some(place) = state.place {
            stores.note_purge_place(&place.encode(), &met);
        }
    }
}

fn purge_all(stores: &Stores, mode: Mode) -> Arc<Receipt> {
    let handle = Target::All.handle("").unwrap_or_default();
    let number = stores.next_version();
    stores.record(Purge { handle, service: 0, number, at_ms: now_ms(), mode })
}
