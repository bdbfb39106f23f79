//! The thread on which a template is compiled once and rendered any number of times.
//!
//! Parsing and running a hostile template can nest deep, so both need a stack larger than callers have
//! ([`STACK`]). Compiled instructions borrow from the template's text; on a thread of their own, text and instructions
//! are plain local variables of [`serve`].

use crate::Clock;
use crate::engine::Program;
use crate::error::TemplateError;
use crate::limits::STACK;
use minijinja::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// What to render, and where to send the text.
struct Request {
    context: Value,
    now: Clock,
    reply: Sender<Result<String, TemplateError>>,
}

/// A handle to a template's thread, which ends when the last clone of the handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    requests: Sender<Request>,
}

impl Worker {
    /// Starts a thread and compiles a template there.
    pub fn start(source: String) -> Result<Worker, TemplateError> {
        let (requests, inbox) = channel();
        let (reply, compiled) = channel();
        thread::Builder::new()
            .name("template".into())
            .stack_size(STACK)
            .spawn(move || serve(&source, reply, &inbox))
            .map_err(|e| TemplateError::Thread { cause: e.to_string() })?;
        // If the thread panicked, nothing arrives.
        compiled.recv().unwrap_or(Err(TemplateError::Panicked))?;
        Ok(Worker { requests })
    }

    /// Renders a text on the thread, and waits for it.
    pub fn render(&self, context: Value, now: Clock) -> Result<String, TemplateError> {
        let (reply, text) = channel();
        self.requests.send(Request { context, now, reply }).map_err(|_| TemplateError::Panicked)?;
        text.recv().unwrap_or(Err(TemplateError::Panicked))
    }
}

/// Compiles the template, reports the result, and answers requests until all senders are gone.
fn serve(source: &str, compiled: Sender<Result<(), TemplateError>>, inbox: &Receiver<Request>) {
    let mut program = match Program::compile(source) {
        Ok(program) => program,
        Err(e) => {
            // The caller is waiting for it, so this cannot fail.
            _ = compiled.send(Err(e));
            return;
        }
    };
    _ = compiled.send(Ok(()));
    for Request { context, now, reply } in inbox {
        // A panic of the engine ends one rendering, not the template.
        let text = catch_unwind(AssertUnwindSafe(|| program.render(context, now)));
        _ = reply.send(text.unwrap_or(Err(TemplateError::Panicked)));
    }
}
