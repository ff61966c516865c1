//! Running on a GPU with the output bound to host memory it can write to.
//!
//! Without a binding, ONNX Runtime copies an output through ordinary memory, which
//! the GPU cannot reach by itself, and waits for it; it also brings every output
//! back, a decoder's keys and values among them. Bound, only the embedding comes
//! back, into pinned memory. Inputs are some kilobytes; they are copied when bound.
//!
//! This needs a GPU to be run at all, and none was there when it was written: it is
//! built and linted, and `tests/embed` says so when it skips it.

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::DynValue;

/// A session's output, bound once, and its inputs, bound anew for each batch.
pub(super) struct Bound {
    binding: IoBinding,
    output: String,
    pinned: MemoryInfo<'static>,
}

impl Bound {
    pub(super) fn new(session: &Session, output: &str, device: i32) -> ort::Result<Self> {
        let (pinned, kind) = (AllocationDevice::CUDA_PINNED, AllocatorType::Device);
        let pinned = MemoryInfo::new(pinned, device, kind, MemoryType::CPUOutput)?;
        Ok(Self { binding: session.create_binding()?, output: output.to_string(), pinned })
    }

    pub(super) fn run<'a>(
        &'a mut self,
        session: &'a mut Session,
        inputs: &[(&str, DynValue)],
    ) -> ort::Result<SessionOutputs<'a>> {
        self.binding.clear();
        for (name, value) in inputs {
            self.binding.bind_input(*name, value)?;
        }
        // Anew, since the shape of the output changes with the batch.
        self.binding.bind_output_to_device(self.output.as_str(), &self.pinned)?;
        let outputs = session.run_binding(&self.binding)?;
        self.binding.synchronize_outputs()?;
        Ok(outputs)
    }
}
