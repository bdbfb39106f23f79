//! The stand-in for the driver in a program built without CUDA: a type without values, because it can never be opened.

use super::device::{Device, DeviceError, DeviceMemory, Launch, Span};

/// A GPU; it has no values.
#[derive(Debug)]
pub enum Driver {}

impl Driver {
    /// Always fails.
    ///
    /// # Errors
    /// Always.
    pub fn open() -> Result<Driver, DeviceError> {
        Err(DeviceError::NotBuilt)
    }

    /// Does nothing.
    pub fn overlapping(self, _: bool) -> Self {
        self
    }
}

impl Device for Driver {
    type Memory = Driver;
    type Graph = Driver;

    fn name(&self) -> String {
        match *self {}
    }

    fn capability(&self) -> (u32, u32) {
        match *self {}
    }

    fn processors(&self) -> u32 {
        match *self {}
    }

    fn shared(&self) -> u32 {
        match *self {}
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        match *self {}
    }

    fn allocate(&self, _: usize) -> Result<Driver, DeviceError> {
        match *self {}
    }

    fn span(&self, memory: &Driver) -> Span {
        match *memory {}
    }

    fn copy_to(&self, _: Span, _: &[u8]) -> Result<(), DeviceError> {
        match *self {}
    }

    fn copy_from(&self, _: Span, _: &mut [u8]) -> Result<(), DeviceError> {
        match *self {}
    }

    fn begin_copy_from(&self, _: Span, _: usize) -> Result<(), DeviceError> {
        match *self {}
    }

    fn end_copy_from(&self, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
        match *self {}
    }

    fn copy(&self, _: Span, _: Span) -> Result<(), DeviceError> {
        match *self {}
    }

    fn launch(&self, _: &Launch) -> Result<(), DeviceError> {
        match *self {}
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        match *self {}
    }

    fn end_capture(&self) -> Result<Driver, DeviceError> {
        match *self {}
    }

    fn replay(&self, graph: &Driver) -> Result<(), DeviceError> {
        match *graph {}
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        match *self {}
    }
}
