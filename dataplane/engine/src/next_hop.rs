//! Asking the next hops until one answers, and asking those that are out whether they are back.
//!
//! Must stay true: a hop that is out costs no request its time: it is passed over, and tried by one exchange at a time;
//! what is not safe to repeat is sent once; when nobody may be asked, that is said at once; second tries come out of a
//! budget, and all tries end by one deadline. For live content, a hop that takes longer to its first byte than 95 of 100
//! before is raced by the next one; that is a second try too.

use crate::clock::now_ms;
use crate::node::Core;
use crate::view::{ServiceView, View};
use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tidegate_cache::lookup::is_next_hop_error;
use tidegate_fill::{
    Answer, Choice, Entry, FillError, Hop, Phase, Place, Request, Standing, Ticket, Timeouts, ask,
    order,
};
use tidegate_http::{Fields, Method};
use tidegate_ring::{now, sleep, timeout};

/// What to ask the next hops.
pub struct Question<'a> {
    pub request: &'a Request,
    /// Decides which hop is asked first.
    pub key: u64,
    pub tries_max: usize,
    /// It has just broken off.
    pub avoid: Option<&'a str>,
    /// All tries together end by then.
    pub deadline: Instant,
    /// A second hop is asked as well when the first one's answer is late.
    pub hedge: bool,
    /// The peer that the key belongs to is asked before all others.
    pub peers: bool,
}

/// Asks the next hops in their order until one answers.
///
/// # Errors
/// What went wrong at the hop that tells most, when no hop answered.
pub async fn ask_any(
    core: &Rc<Core>,
    view: &View,
    service: &ServiceView,
    question: &Question<'_>,
) -> Result<(Answer, String), FillError> {
    if question.peers
        && let Some(peer) = view.peer_for(service, question.key)
        && let Some(ticket) = peer.state.enter(Entry::Usual)
    {
        core.count(|c| &c.peer_fills_total, 1);
        match try_hop(core, peer, question, ticket).await {
            Ok((answer, false)) => return Ok((answer, peer.id.clone())),
            Ok((_, true)) | Err(_) => core.count(|c| &c.peer_fills_failed_total, 1),
        }
    }
    let hops = &service.hops;
    if hops.is_empty() {
        return Err(FillError::NoNextHop);
    }
    let mut choices = order(view.me.role, hops, question.key);
    choices.sort_by_key(|choice| question.avoid == Some(hops[choice.index].id.as_str()));
    if choices.iter().any(|choice| choice.place == Place::OverBound) {
        core.count(|c| &c.next_hop_over_bound_total, 1);
    }
    core.node.hops.note_first_try();
    let mut outcome = Outcome::default();
    for (position, choice) in choices.iter().enumerate() {
        let hop = &hops[choice.index];
        let Some(entry) = choice.place.entry().filter(|_| !outcome.has_asked(hop)) else {
            continue;
        };
        if outcome.tries >= question.tries_max {
            break;
        }
        let Some(ticket) = hop.state.enter(entry) else { continue };
        if !outcome.may_go_on(core) {
            break;
        }
        let delay = hop.state.hedge_after().filter(|_| question.hedge);
        let tried = match delay {
            None => try_hop(core, hop, question, ticket).await,
            Some(delay) => {
                let others = &choices[position + 1..];
                let race = Race { core, hops, others, question, delay };
                let is_trial = choice.place == Place::Due;
                let (behind, tried) = race.run(hop, ticket, is_trial, &mut outcome).await;
                if let Some(answered) = behind.and_then(|behind| outcome.take(core, behind)) {
                    return Ok(answered);
                }
                tried
            }
        };
        if let Some(answered) = outcome.take(core, tried) {
            return Ok(answered);
        }
    }
    // With one next hop only, it gets a second chance: its connection may have been about to close.
    if let ([hop], [choice], 1, true) =
        (&hops[..], &choices[..], outcome.tries, question.tries_max > 1)
        && outcome.own_error.is_none()
        && outcome.error.as_ref().is_some_and(FillError::has_cost)
        && let Some(ticket) = choice.place.entry().and_then(|entry| hop.state.enter(entry))
        && outcome.may_go_on(core)
        && let Some(answered) = outcome.take(core, try_hop(core, hop, question, ticket).await)
    {
        return Ok(answered);
    }
    if outcome.tries == 0 {
        let last_resort =
            |hop: &'_ Hop| hop.state.enter(Entry::LastResort).map(|ticket| (hop.clone(), ticket));
        let Some((hop, ticket)) =
            choices.iter().find_map(|choice| last_resort(&hops[choice.index]))
        else {
            core.count(|c| &c.next_hops_all_out_total, 1);
            return Err(FillError::AllOut);
        };
        if let Some(answered) = outcome.take(core, try_hop(core, &hop, question, ticket).await) {
            return Ok(answered);
        }
    }
    // Nobody did better.
    outcome.own_error.ok_or(outcome.error.unwrap_or(FillError::AllOut))
}

/// What came of the tries so far.
#[derive(Default)]
struct Outcome {
    tries: usize,
    /// The hop that was asked as well.
    raced: Option<String>,
    /// An overloaded or broken hop's answer: the next one may do better, and this one may be right.
    own_error: Option<(Answer, String)>,
    error: Option<FillError>,
}

/// An answer, and whether it is an error of the hop's own.
type Tried = Result<(Answer, bool), FillError>;

impl Outcome {
    fn has_asked(&self, hop: &Hop) -> bool {
        self.raced.as_ref() == Some(&hop.id)
    }

    /// Whether another try may follow those so far.
    fn may_go_on(&mut self, core: &Core) -> bool {
        let has_cost =
            self.own_error.is_some() || self.error.as_ref().is_some_and(FillError::has_cost);
        if matches!(self.error, Some(FillError::Deadline)) {
            return false;
        }
        if self.tries > 0 && has_cost && !core.node.hops.may_retry() {
            core.count(|c| &c.retries_denied_total, 1);
            return false;
        }
        core.count(|c| &c.retries_total, u64::from(self.tries > 0));
        true
    }

    /// The answer to go on with, if this is one.
    fn take(&mut self, core: &Core, tried: Tried) -> Option<(Answer, String)> {
        self.tries += 1;
        match tried {
            Ok((answer, is_own_error)) => {
                let hop = answer.body.hop().to_owned();
                if is_own_error && self.own_error.is_none() {
                    self.own_error = Some((answer, hop));
                    return None;
                }
                Some((answer, hop))
            }
            Err(error) => {
                core.count(|c| &c.fill_errors_total, 1);
                self.error = Some(match self.error.take() {
                    Some(before) => before.or_rather(error),
                    None => error,
                });
                None
            }
        }
    }
}

/// A hop, and when it is late another one beside it.
struct Race<'a> {
    core: &'a Rc<Core>,
    hops: &'a [Hop],
    others: &'a [Choice],
    question: &'a Question<'a>,
    delay: Duration,
}

impl Race<'_> {
    /// What came of it, and, when both were asked and the first outcome was a failure, that one before it.
    async fn run(
        &self,
        hop: &Hop,
        ticket: Ticket,
        is_trial: bool,
        outcome: &mut Outcome,
    ) -> (Option<Tried>, Tried) {
        let Race { core, question, .. } = self;
        let mut first = pin!(try_hop(core, hop, question, ticket));
        let mut late = pin!(sleep(self.delay));
        let in_time = poll_fn(|cx| match first.as_mut().poll(cx) {
            Poll::Ready(tried) => Poll::Ready(Some(tried)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        });
        if let Some(tried) = in_time.await {
            return (None, tried);
        }
        let Some((other, ticket)) = self.other() else { return (None, first.await) };
        core.count(|c| &c.hedges_total, 1);
        outcome.raced = Some(other.id.clone());
        let mut second = pin!(try_hop(core, other, question, ticket));
        let (is_first, tried) = poll_fn(|cx| {
            if let Poll::Ready(tried) = first.as_mut().poll(cx) {
                return Poll::Ready((true, tried));
            }
            second.as_mut().poll(cx).map(|tried| (false, tried))
        })
        .await;
        let is_good = matches!(&tried, Ok((_, false)));
        match (is_first, is_good) {
            (true, true) => (None, tried),
            (false, true) => {
                core.count(|c| &c.hedges_won_total, 1);
                hop.state.note_late(is_trial);
                (None, tried)
            }
            (true, false) => (Some(tried), second.await),
            (false, false) => (Some(tried), first.await),
        }
    }

    /// The next hop that is up and has room, if the budget allows another try.
    fn other(&self) -> Option<(&Hop, Ticket)> {
        let other = self.others.iter().find(|choice| choice.place == Place::Up)?;
        if !self.core.node.hops.may_retry() {
            self.core.count(|c| &c.retries_denied_total, 1);
            return None;
        }
        let hop = &self.hops[other.index];
        Some((hop, hop.state.enter(Entry::Usual)?))
    }
}

/// One exchange up to its head, and whether that is an error of the hop's own.
async fn try_hop(core: &Rc<Core>, hop: &Hop, question: &Question<'_>, mut ticket: Ticket) -> Tried {
    let left = || question.deadline.saturating_duration_since(now());
    ticket.take_place(left()).await?;
    let asking = ask(&core.pool, hop, question.request, core.node.timeouts, ticket);
    let mut answer = timeout(left(), asking).await.map_err(|_| FillError::Deadline)??;
    // It never got the whole of the question, or means an earlier one of a kept connection: that says nothing about the
    // client's.
    if answer.head.status == 408 {
        answer.judge(true);
        return Err(FillError::Timeout { hop: hop.id.clone(), phase: Phase::Send });
    }
    let own_error = is_own_error(&answer);
    answer.judge(own_error);
    Ok((answer, own_error))
}

/// An error of the next hop itself, not one that it passes on: asking another parent for what the origin refuses
/// would only double the origin's load.
fn is_own_error(answer: &Answer) -> bool {
    let passed_on = answer
        .head
        .fields
        .get_all("cache-status")
        .any(|value| value.windows(FWD_STATUS.len()).any(|part| part == FWD_STATUS));
    is_next_hop_error(answer.head.status) && !passed_on
}

const FWD_STATUS: &[u8] = b"fwd-status=5";

/// How often hops that are out are asked whether they are back.
const PROBE_SPAN: Duration = Duration::from_secs(1);
/// What asks for health alone waits no longer than this for each phase.
const PROBE_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    head: Duration::from_secs(2),
    idle: Duration::from_secs(2),
    pace: Duration::from_secs(30),
    total: Duration::from_secs(5),
};

/// Asks hops that are out for their health, for ever. One core of a process does.
pub async fn probe(core: Rc<Core>) {
    loop {
        sleep(PROBE_SPAN).await;
        let view = core.node.view.load_full();
        let mut seen = HashSet::new();
        for hop in view.services().iter().flat_map(|service| service.all_hops()) {
            if hop.probe.is_some()
                && hop.state.standing() != Standing::Up
                && seen.insert(Arc::as_ptr(&hop.state))
                && let Some(ticket) = hop.state.enter_probe()
            {
                core.count(|c| &c.next_hop_probes_total, 1);
                core.spawn(probe_hop(core.clone(), hop.clone(), ticket));
            }
        }
    }
}

async fn probe_hop(core: Rc<Core>, hop: Hop, ticket: Ticket) {
    let Some(probe) = &hop.probe else { return };
    let request = Request {
        method: Method::Get,
        target: probe.path.clone(),
        authority: probe.authority.clone(),
        fields: Fields::new(),
        body: bytes::Bytes::new(),
    };
    // How it went is in the ticket.
    if let Ok(mut answer) = ask(&core.pool, &hop, &request, PROBE_TIMEOUTS, ticket).await {
        answer.judge(answer.head.status > probe.status_max);
        let begun = now_ms();
        while let Ok(Some(_)) = answer.body.next().await {
            if now_ms() - begun > PROBE_TIMEOUTS.idle.as_millis() as u64 {
                return; // long, or slow: its end is not needed
            }
        }
    }
}
