//! One connection: begins its requests in order and answers them in order, as one future that one
//! thread drives. A slow reader holds up nobody but itself.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::arrival::{Arrival, Patience, Wait, WaitsFor};
use super::budget::{Budgets, Charge, SMALL_FRAME_BYTES_MAX};
use super::departure::{Departure, Holds, Reading};
use super::frame::{Frames, Front, STEP_BYTES};
use super::outgoing::Outgoing;
use super::socket::Socket;
use super::turn::Turn;
use crate::api::{self, Begun, Later, Order, Refusal, Reply, Session};

/// Requests of one connection that wait for their answers. librdkafka sends as fast as it may.
const IN_FLIGHT_MAX: usize = 256;
/// Request bytes of one connection in memory; a single larger request has it for itself.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// Why a connection is closed whose client does not read.
const STALLED: &str = "client does not read its answers";
const UNREAD: &str = "client read nothing of its answers for 10 s, or less than 64 KiB/s for 30 s, while \
                      others waited for their room (queued.max.response.bytes)";

/// What all connections of a listener share.
#[derive(Clone)]
pub(super) struct Shared {
    pub ctx: Arc<api::Context>,
    pub patience: Patience,
    pub budget: Arc<Budgets>,
    pub stop: watch::Receiver<bool>,
}

/// Why a connection ended, when that is worth a log line.
type Reason = Option<String>;

/// Serves `stream` until the client closes, misbehaves, or the broker stops.
pub(super) async fn serve(stream: TcpStream, session: Session, shared: Shared) {
    let session = Arc::new(session);
    let ctx = shared.ctx.clone();
    let begin = |frame| api::begin(&ctx, &session, frame);
    let served = Link::new(Socket::Plain(stream), session.clone(), shared).serve(begin).await;
    let (listener, peer) = (session.listener(), session.peer());
    let software = session.software();
    // The address alone rarely tells whose client it was.
    let software = software.as_deref().map(tracing::field::display);
    match served {
        Err(Some(reason)) => {
            tracing::warn!(%peer, %listener, software, %reason, "connection closed");
        }
        Ok(()) | Err(None) => tracing::debug!(%peer, %listener, software, "connection closed"),
    }
}

/// A request that took its place, and the bytes that it still accounts for.
struct InFlight {
    order: Order,
    reply: Later<Reply>,
    bytes: usize,
    /// Without one they are of those that each connection has for itself.
    charge: Option<Charge>,
}

/// What a connection does next.
enum Event {
    /// The first request in flight is answered.
    Answered(Reply),
    /// A frame is whole and may be begun.
    Frame(Bytes, Option<Charge>),
    /// There is nothing to do before the answers went out.
    Flush,
    /// All is answered, and no more will come.
    End,
}

/// What happens while a request begins.
enum Step<T> {
    /// It has begun.
    Begun(T),
    /// The first request in flight is answered.
    Answered(Reply),
}

struct Link {
    socket: Socket,
    session: Arc<Session>,
    ctx: Arc<api::Context>,
    patience: Patience,
    budget: Arc<Budgets>,
    stop: Stop,
    alarm: Alarm,
    frames: Frames,
    arrival: Arrival,
    turn: Turn,
    /// In the order of their answers. Only the last one may be one that others wait for.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Of these, what is not charged to the broker's budget.
    own_bytes: usize,
    out: Outgoing,
    departure: Departure,
    /// Since when nothing was asked and nothing is owed.
    idle_since: Option<Instant>,
    /// No more is read: the client has closed, broken the protocol, or the broker stops.
    ended: Option<Reason>,
}

impl Link {
    fn new(socket: Socket, session: Arc<Session>, shared: Shared) -> Link {
        Link {
            socket,
            session,
            ctx: shared.ctx,
            patience: shared.patience,
            budget: shared.budget,
            stop: Stop::new(shared.stop),
            alarm: Alarm::default(),
            frames: Frames::new(),
            arrival: Arrival::default(),
            turn: Turn::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            own_bytes: 0,
            out: Outgoing::default(),
            departure: Departure::default(),
            idle_since: None,
            ended: None,
        }
    }

    /// Runs until the frames end or the connection must be closed. `begin` begins the request in a
    /// frame.
    async fn serve<F>(&mut self, begin: impl Fn(Bytes) -> F) -> Result<(), Reason>
    where
        F: Future<Output = Result<Begun, Refusal>>,
    {
        loop {
            match poll_fn(|cx| self.poll_next(cx)).await {
                Event::Answered(reply) => {
                    self.drop_first();
                    self.answer(reply).await?;
                }
                Event::Frame(frame, charge) => {
                    let bytes = frame.len();
                    let begun = self.begin(pin!(begin(frame))).await?;
                    self.place(begun, bytes, charge).await?;
                }
                Event::Flush => self.flush().await?,
                Event::End => return self.ended.take().flatten().map_or(Ok(()), |r| Err(Some(r))),
            }
        }
    }

    /// What is to be done next; `Pending` when that is to wait. What is there already comes first, so
    /// that answers which are ready together go out together.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.stop.is_told(cx) {
            self.ended.get_or_insert(None);
        }
        // What takes long once it has begun is not begun behind answers that are not out yet.
        let first = self.in_flight.front().map(|first| first.order);
        let is_staged = first.is_none_or(|order| order == Order::Staged);
        if self.out.is_full() || !(self.out.is_empty() || is_staged) {
            return Poll::Ready(Event::Flush);
        }
        if let Some(first) = self.in_flight.front_mut()
            && let Poll::Ready(reply) = first.reply.as_mut().poll(cx)
        {
            return Poll::Ready(Event::Answered(reply));
        }
        loop {
            let front = match self.frames.front(&self.ctx.config, &self.session) {
                Ok(front) => front,
                Err(misuse) => return self.end(Some(misuse.to_string())),
            };
            // One that has ended brings nothing more, and is not kept waiting.
            let muted = self.session.throttle().time_left().filter(|_| self.ended.is_none());
            let may_begin = muted.is_none() && self.may_begin();
            if let Front::Whole(bytes) = front
                && may_begin
                && self.is_admitted(bytes, cx)
            {
                let charge = std::mem::take(&mut self.arrival).charge;
                return Poll::Ready(Event::Frame(self.frames.take(bytes), charge));
            }
            if !self.out.is_empty() {
                return Poll::Ready(Event::Flush);
            }
            if self.ended.is_some() {
                return self.poll_end(front);
            }
            if let Some(time) = muted {
                return self.poll_muted(time, cx);
            }
            let is_busy = !self.in_flight.is_empty();
            let read = match front {
                // It waits for its turn; what is behind it is read to see a client leave.
                Front::Whole(_) if may_begin || self.frames.is_full() => Poll::Pending,
                Front::Coming(bytes) => self.poll_rest(bytes, cx),
                _ => self.frames.poll_read(&mut self.socket, front, is_busy, cx),
            };
            match read {
                // A client that goes away, be it in the middle of a frame, is no event.
                Poll::Ready(Ok(0) | Err(_)) => {
                    (self.ended, self.arrival) = (Some(None), Arrival::default());
                }
                // A client that sends much at once: other connections of the thread have their turn.
                Poll::Ready(Ok(STEP_BYTES)) => {
                    self.idle_since = None;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(_)) => self.idle_since = None,
                Poll::Pending => return self.poll_patience(front, cx),
            }
        }
    }

    /// Whether the client has gone while a request waits for others on its behalf. Reading tells that
    /// by itself; this is for a connection that has read all it may.
    fn is_abandoned(&self) -> bool {
        self.in_flight.front().is_some_and(|first| first.order == Order::Parked)
            && self.socket.is_hung_up()
    }

    /// Whether one more request may be begun.
    fn may_begin(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
            && self.in_flight.back().is_none_or(|last| last.order == Order::Staged)
    }

    /// Whether a frame of `bytes` may be in memory beside what the connection has in flight.
    fn has_place(&self, bytes: usize) -> bool {
        self.in_flight.is_empty()
            || self.in_flight_bytes.saturating_add(bytes) <= IN_FLIGHT_BYTES_MAX
    }

    /// Whether there is memory for the whole frame of `bytes` at the front as a request in flight. The
    /// task is woken when there is.
    fn is_admitted(&mut self, bytes: usize, cx: &mut Context<'_>) -> bool {
        if self.has_place(bytes) {
            if bytes <= SMALL_FRAME_BYTES_MAX {
                if self.own_bytes + bytes <= SMALL_FRAME_BYTES_MAX {
                    return true;
                }
                let mut charge = self.budget.charge(bytes);
                if charge.try_raise(bytes) {
                    self.arrival.charge = Some(charge);
                    return true;
                }
            } else {
                let charge = self.arrival.charge.get_or_insert_with(|| self.budget.charge(bytes));
                if charge.poll_raise(bytes, cx).is_ready() {
                    return true;
                }
                self.arrival.wait_for(WaitsFor::Memory);
                return false;
            }
        }
        self.arrival.wait_for(WaitsFor::Answers);
        false
    }

    /// Reads on in the large frame of `bytes` at the front. Its room is charged before it gets it.
    fn poll_rest(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // It may not hold memory while it waits for a request that waits for others.
        if !self.may_begin() || !self.has_place(bytes) {
            self.arrival.wait_for(WaitsFor::Answers);
            return Poll::Pending;
        }
        // Nothing is charged before there is something to read.
        let Poll::Ready(readable) = self.socket.poll_readable(cx) else {
            self.arrival.wait_for(WaitsFor::Client);
            return Poll::Pending;
        };
        readable?;
        if self.turn.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let charge = self.arrival.charge.get_or_insert_with(|| self.budget.charge(bytes));
        if charge.bytes() <= self.frames.len() {
            let room = self.frames.room(bytes, self.socket.queued());
            if charge.poll_raise(room, cx).is_pending() {
                self.arrival.wait_for(WaitsFor::Memory);
                return Poll::Pending;
            }
            // Where it had to wait, this is the room that it asked for then.
            self.frames.move_to(charge.bytes());
        }
        self.arrival.wait_for(WaitsFor::Client);
        let read = ready!(self.frames.poll_read_on(&mut self.socket, cx))?;
        Turn::spend(read);
        Poll::Ready(Ok(read))
    }

    /// Waits until the client may ask for more again.
    fn poll_muted(&mut self, time: Duration, cx: &mut Context<'_>) -> Poll<Event> {
        if self.is_abandoned() {
            return self.end(None);
        }
        // That time is not the client's.
        self.arrival.excuse();
        self.idle_since = None;
        self.poll_alarm(Instant::now() + time.min(self.patience.look), cx)
    }

    /// Waits until `due` at the latest, then looks again.
    fn poll_alarm<T>(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<T> {
        if self.alarm.is_due(due, cx) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Waits, but not for ever.
    fn poll_patience(&mut self, front: Front, cx: &mut Context<'_>) -> Poll<Event> {
        let wait = match front {
            Front::Nothing if self.in_flight.is_empty() => {
                let since = *self.idle_since.get_or_insert_with(Instant::now);
                // An idle client is no event.
                return match self.alarm.is_due(since + self.patience.idle, cx) {
                    true => self.end(None),
                    false => Poll::Pending,
                };
            }
            Front::Beginning(_) => self.arrival.wait_for_beginning(&self.patience, Instant::now()),
            Front::Coming(_) => {
                self.arrival.wait_for_rest(self.frames.len(), &self.patience, Instant::now())
            }
            Front::Whole(_) if self.may_begin() || self.frames.is_full() => {
                Wait::Until(Instant::now() + self.patience.look)
            }
            // Answers are owed, and the end of the client would be read.
            Front::Nothing | Front::Whole(_) => return Poll::Pending,
        };
        // Where nothing is read, the client's end must be looked for.
        if self.is_abandoned() {
            return self.end(None);
        }
        match wait {
            Wait::Over(why) => self.end(Some(why.to_string())),
            Wait::Until(due) => self.poll_alarm(due, cx),
        }
    }

    /// No more is read, but what was read whole is still carried out: an `acks=0` producer may have
    /// left.
    fn end(&mut self, reason: Reason) -> Poll<Event> {
        self.ended.get_or_insert(reason);
        // What cannot be a frame is no front any more.
        (self.frames, self.arrival) = (Frames::new(), Arrival::default());
        match self.out.is_empty() {
            true => self.poll_end(Front::Nothing),
            false => Poll::Ready(Event::Flush),
        }
    }

    /// The end, once nothing is owed: nobody waits any more for what waits for others.
    fn poll_end(&mut self, front: Front) -> Poll<Event> {
        let is_last = match self.in_flight.front() {
            None => !matches!(front, Front::Whole(_)),
            Some(first) => first.order == Order::Parked,
        };
        if is_last { Poll::Ready(Event::End) } else { Poll::Pending }
    }

    /// Waits until a request has begun. Answers that become ready meanwhile go out: what it waits for
    /// (a coordinator, room in an append queue) is none of theirs.
    async fn begin<F>(&mut self, mut beginning: Pin<&mut F>) -> Result<F::Output, Reason>
    where
        F: Future,
    {
        let begun = loop {
            match poll_fn(|cx| self.poll_beginning(beginning.as_mut(), cx)).await {
                Ok(Step::Begun(begun)) => break begun,
                // Whatever becomes of the connection, a request that has begun is not cut short.
                Ok(Step::Answered(Reply::Close(reason))) => {
                    beginning.await;
                    return Err(self.close(reason).await);
                }
                Err(reason) => {
                    beginning.await;
                    return Err(reason);
                }
                Ok(Step::Answered(reply)) => {
                    self.drop_first();
                    self.answer(reply).await?;
                }
            }
        };
        // Nothing was read meanwhile: that time was not the client's.
        self.arrival.excuse();
        Ok(begun)
    }

    fn poll_beginning<F: Future>(
        &mut self,
        beginning: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Step<F::Output>, Reason>> {
        if let Poll::Ready(begun) = beginning.poll(cx) {
            return Poll::Ready(Ok(Step::Begun(begun)));
        }
        loop {
            if !self.out.is_full()
                && let Some(first) = self.in_flight.front_mut()
                && let Poll::Ready(reply) = first.reply.as_mut().poll(cx)
            {
                return Poll::Ready(Ok(Step::Answered(reply)));
            }
            if self.out.is_empty() {
                return Poll::Pending;
            }
            ready!(self.poll_flush(cx))?;
        }
    }

    /// Puts a request that has begun behind those in flight.
    async fn place(
        &mut self,
        begun: Result<Begun, Refusal>,
        bytes: usize,
        charge: Option<Charge>,
    ) -> Result<(), Reason> {
        match begun {
            Ok(Begun::Answered(reply)) if self.in_flight.is_empty() => self.answer(reply).await,
            Ok(begun) => {
                let (order, reply) = begun.into_pending();
                self.in_flight_bytes += bytes;
                if charge.is_none() {
                    self.own_bytes += bytes;
                }
                self.in_flight.push_back(InFlight { order, reply, bytes, charge });
                Ok(())
            }
            Err(refusal) => {
                // Answers that are owed come first.
                while let Some(first) = self.in_flight.pop_front() {
                    self.answer(first.reply.await).await?;
                }
                Err(self.close(refusal.to_string()).await)
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.in_flight.pop_front() {
            self.in_flight_bytes -= first.bytes;
            if first.charge.is_none() {
                self.own_bytes -= first.bytes;
            }
        }
    }

    /// Puts an answer to those that go out; or ends the connection behind those before it.
    async fn answer(&mut self, reply: Reply) -> Result<(), Reason> {
        match reply {
            Reply::Silence => Ok(()),
            Reply::Frame(head, records, held) => {
                self.out.add(head, records, held);
                Ok(())
            }
            Reply::Close(reason) => Err(self.close(reason).await),
        }
    }

    /// Sends the answers before the one that cannot be given; why the connection ends then.
    async fn close(&mut self, reason: String) -> Reason {
        self.flush().await.map_or_else(|gone| gone, |()| Some(reason))
    }

    async fn flush(&mut self) -> Result<(), Reason> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        // Nothing was read meanwhile: that time was not the client's.
        self.arrival.excuse();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        match self.out.poll_write(&mut self.socket, cx) {
            Poll::Ready(Ok(())) => {
                self.departure = Departure::default();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Poll::Ready(Err(Some(STALLED.to_owned())))
            }
            // A client that went away without waiting for its answer is no event.
            Poll::Ready(Err(_)) => Poll::Ready(Err(None)),
            Poll::Pending => self.poll_unread(cx),
        }
    }

    /// Waits for a client to read its answers: as long as for an idle one, but less while others wait
    /// for what it holds.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let held = self.out.held();
        let answers = match held.bytes() {
            0 => Holds::Nothing,
            _ if self.ctx.answers.is_short_of(held) => Holds::Wanted,
            _ => Holds::Spare,
        };
        let frame = match self.arrival.charge {
            None => Holds::Nothing,
            Some(_) if self.arrival.is_pressed() => Holds::Wanted,
            Some(_) => Holds::Spare,
        };
        let taken = self.out.taken_bytes();
        match self.departure.wait(taken, [answers, frame], &self.patience, Instant::now()) {
            Reading::Until(due) => self.poll_alarm(due, cx),
            Reading::Stalled => Poll::Ready(Err(Some(STALLED.to_owned()))),
            Reading::Unread => {
                self.ctx.answers.note_closed();
                Poll::Ready(Err(Some(UNREAD.to_owned())))
            }
        }
    }
}

/// The broker's word that no more is to be read.
struct Stop {
    flag: watch::Receiver<bool>,
    /// Wakes the task that polled it first.
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_listening: bool,
}

impl Stop {
    fn new(flag: watch::Receiver<bool>) -> Stop {
        let mut told = flag.clone();
        let told = Box::pin(unconstrained(async move {
            // A dropped sender is such a word, too.
            let _ = told.wait_for(|stop| *stop).await;
        }));
        Stop { flag, told, is_listening: false }
    }

    fn is_told(&mut self, cx: &mut Context<'_>) -> bool {
        if !std::mem::replace(&mut self.is_listening, true)
            && self.told.as_mut().poll(cx).is_ready()
        {
            return true;
        }
        // Nothing but that word is ever sent.
        self.flag.has_changed().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests;
