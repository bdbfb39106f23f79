//! A device that computes nothing: it records every call, and asserts that the call is allowed.
//!
//! Every copy and every argument of a launch must lie in allocated memory, and memory that was never written must not
//! be read. Nothing may be allocated, freed or copied during stream capture. When a graph is replayed, its memory must
//! still be where it was. Reading back gives the bytes that were copied there, and zeros where a kernel would have
//! written.

use nanoserve_runtime::cuda::device::{Access, Device, DeviceError, DeviceMemory, Launch, SLOT_BYTES, SLOTS, Span};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A call to the device.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An allocation of this many bytes.
    Allocate(u64),
    /// This many bytes freed.
    Free(u64),
    /// A copy to it.
    To(Span),
    /// A copy from it.
    From(Span),
    /// The start of a copy from it to a slot.
    Begin(Span, usize),
    /// A wait for the last copy to a slot.
    End(usize),
    /// A launch that runs.
    Launch(Launch),
    /// A launch that is captured.
    Capture(Launch),
    /// A replay of a graph with this many launches.
    Replay(usize),
}

#[derive(Debug, Default)]
struct State {
    total: u64,
    /// Allocations by address: their contents, and which bytes were written.
    memory: BTreeMap<u64, (Vec<u8>, Vec<bool>)>,
    next: u64,
    events: Vec<Event>,
    capturing: Option<Vec<Launch>>,
    /// The contents of each slot.
    slots: [Vec<u8>; SLOTS],
    /// The next call of this kind fails.
    fail: Option<&'static str>,
}

/// The device.
#[derive(Clone, Debug)]
pub struct Recorder(Rc<RefCell<State>>);

/// Its memory.
#[derive(Debug)]
pub struct Memory {
    state: Rc<RefCell<State>>,
    span: Span,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        assert!(state.capturing.is_none(), "freed while capturing");
        state.memory.remove(&self.span.address).expect("freed once");
        state.events.push(Event::Free(self.span.bytes));
    }
}

impl State {
    /// The allocation that a span lies in, and the span's offset in it.
    #[track_caller]
    fn place(&mut self, span: Span) -> (&mut (Vec<u8>, Vec<bool>), std::ops::Range<usize>) {
        let (&start, memory) = self.memory.range_mut(..=span.address).next_back().expect("no memory there");
        let from = (span.address - start) as usize;
        let to = from + span.bytes as usize;
        assert!(to <= memory.0.len(), "bytes {from}..{to} of {}", memory.0.len());
        (memory, from..to)
    }

    #[track_caller]
    fn run(&mut self, launch: &Launch) {
        assert!(launch.grid.iter().all(|&n| n > 0) && (1..=1024).contains(&launch.block), "{launch:?}");
        assert!(launch.grid[1] <= 65535 && launch.grid[2] <= 65535, "{launch:?}");
        for (span, access) in &launch.touches {
            assert!(span.address.is_multiple_of(4), "{}: {span:?}", launch.kernel);
            let ((_, written), at) = self.place(*span);
            match access {
                Access::Read | Access::Both => {
                    assert!(written[at].iter().all(|w| *w), "{} reads what was never written: {span:?}", launch.kernel);
                }
                // Which part it writes is unknown, so all of it counts as written.
                Access::Write | Access::Some => written[at].fill(true),
            }
        }
    }

    #[track_caller]
    fn failing(&mut self, call: &'static str) -> Result<(), DeviceError> {
        match self.fail.take_if(|fail| *fail == call) {
            Some(_) => Err(DeviceError::Call { call: call.into(), cause: "as asked".into() }),
            None => Ok(()),
        }
    }
}

impl Recorder {
    /// A device with this many bytes of memory.
    pub fn new(total: u64) -> Recorder {
        Recorder(Rc::new(RefCell::new(State { total, next: 1 << 32, ..State::default() })))
    }

    /// Takes the calls since the last `take`.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.borrow_mut().events)
    }

    /// Names of the kernels that ran or were captured since the last time.
    pub fn kernels(&self) -> Vec<&'static str> {
        let kernel = |event: Event| match event {
            Event::Launch(launch) | Event::Capture(launch) => Some(launch.kernel),
            _ => None,
        };
        self.take().into_iter().filter_map(kernel).collect()
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.0.borrow().memory.values().map(|(bytes, _)| bytes.len() as u64).sum()
    }

    /// The contents of a span.
    pub fn bytes(&self, span: Span) -> Vec<u8> {
        let mut state = self.0.borrow_mut();
        let ((bytes, _), at) = state.place(span);
        bytes[at].to_vec()
    }

    /// Makes the next call with this name fail: `allocate`, `copy_to`, `copy_from`, `begin_copy_from`, `end_copy_from`,
    /// `launch`, `replay`.
    pub fn fail(&self, call: &'static str) {
        self.0.borrow_mut().fail = Some(call);
    }
}

impl Device for Recorder {
    type Memory = Memory;
    type Graph = Vec<Launch>;

    fn name(&self) -> String {
        "recorder".into()
    }

    fn capability(&self) -> (u32, u32) {
        (9, 0)
    }

    fn processors(&self) -> u32 {
        132
    }

    fn shared(&self) -> u32 {
        227 << 10
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let total = self.0.borrow().total;
        Ok(DeviceMemory { free: total.saturating_sub(self.used()), total })
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let mut state = self.0.borrow_mut();
        assert!(state.capturing.is_none(), "allocated while capturing");
        assert!(bytes > 0, "an allocation of nothing");
        state.failing("allocate")?;
        let span = Span { address: state.next, bytes: bytes as u64 };
        // A gap, so that accesses past an end are detected.
        state.next = (state.next + span.bytes + 4096).next_multiple_of(256);
        state.memory.insert(span.address, (vec![0; bytes], vec![false; bytes]));
        state.events.push(Event::Allocate(span.bytes));
        Ok(Memory { state: self.0.clone(), span })
    }

    fn span(&self, memory: &Memory) -> Span {
        memory.span
    }

    fn copy_to(&self, to: Span, from: &[u8]) -> Result<(), DeviceError> {
        let mut state = self.0.borrow_mut();
        assert!(state.capturing.is_none(), "copied while capturing");
        assert_eq!(to.bytes, from.len() as u64);
        state.failing("copy_to")?;
        let ((bytes, written), at) = state.place(to);
        bytes[at.clone()].copy_from_slice(from);
        written[at].fill(true);
        state.events.push(Event::To(to));
        Ok(())
    }

    fn copy_from(&self, from: Span, to: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.0.borrow_mut();
        assert!(state.capturing.is_none(), "copied while capturing");
        assert_eq!(from.bytes, to.len() as u64);
        state.failing("copy_from")?;
        let ((bytes, written), at) = state.place(from);
        assert!(written[at.clone()].iter().all(|w| *w), "reads what was never written: {from:?}");
        to.copy_from_slice(&bytes[at]);
        state.events.push(Event::From(from));
        Ok(())
    }

    fn begin_copy_from(&self, from: Span, slot: usize) -> Result<(), DeviceError> {
        assert!(from.bytes <= SLOT_BYTES as u64);
        let mut state = self.0.borrow_mut();
        assert!(state.capturing.is_none(), "copied while capturing");
        state.failing("begin_copy_from")?;
        let ((bytes, written), at) = state.place(from);
        assert!(written[at.clone()].iter().all(|w| *w), "reads what was never written: {from:?}");
        state.slots[slot] = bytes[at].to_vec();
        state.events.push(Event::Begin(from, slot));
        Ok(())
    }

    fn end_copy_from(&self, slot: usize, to: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.0.borrow_mut();
        state.failing("end_copy_from")?;
        to.copy_from_slice(&state.slots[slot][..to.len()]);
        state.events.push(Event::End(slot));
        Ok(())
    }

    fn copy(&self, to: Span, from: Span) -> Result<(), DeviceError> {
        let bytes = self.bytes(from);
        let mut state = self.0.borrow_mut();
        let ((there, written), at) = state.place(to);
        there[at.clone()].copy_from_slice(&bytes);
        written[at].fill(true);
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let mut state = self.0.borrow_mut();
        state.failing("launch")?;
        if let Some(captured) = &mut state.capturing {
            captured.push(launch.clone());
            state.events.push(Event::Capture(launch.clone()));
        } else {
            state.run(launch);
            state.events.push(Event::Launch(launch.clone()));
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        let before = self.0.borrow_mut().capturing.replace(Vec::new());
        assert!(before.is_none(), "captured while capturing");
        Ok(())
    }

    fn end_capture(&self) -> Result<Vec<Launch>, DeviceError> {
        Ok(self.0.borrow_mut().capturing.take().expect("a capture was begun"))
    }

    fn replay(&self, graph: &Vec<Launch>) -> Result<(), DeviceError> {
        let mut state = self.0.borrow_mut();
        assert!(state.capturing.is_none(), "replayed while capturing");
        state.failing("replay")?;
        graph.iter().for_each(|launch| state.run(launch));
        state.events.push(Event::Replay(graph.len()));
        Ok(())
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
