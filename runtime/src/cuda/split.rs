//! A model whose last layers run on a GPU and the first on the CPU: all of them on either are the ends of that.
//!
//! A weight is where its layer is, and an operation runs where its weight is. Rows of an operation's input come along: the
//! residual stream crosses once a step, behind the last layer of the CPU. What has no weight runs where its rows are. The head,
//! often the largest matrix, is the GPU's, with any layer at all.

use super::device::Device;
use super::memory::{cache_bytes, holds, weight_bytes};
use super::{CudaBackend, DeviceBuffer, DeviceCache, DeviceWeight, RESERVE};
use crate::backend::{Attention, Backend, BackendKind, KvShape, Linear};
use crate::cpu::{Buffer, CpuBackend, CpuWeight, KvCache};
use crate::error::{Result, RuntimeError};
use crate::memory::{Limit, Room};
use crate::rope::RopeTable;
use nanoserve_format::{Activation, NsvFile, Shape};
use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
