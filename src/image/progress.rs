//! What long work tells whoever watches. The engines call it; only the fronts draw.

/// Every method does nothing by default. Calls come from several threads.
pub trait Progress: Sync {
    /// Layer `index` starts: its stored size if known, and a name for people.
    fn layer(&self, _index: usize, _total_bytes: Option<u64>, _name: &str) {}
    /// `bytes` more of the layer's stored bytes were taken in.
    fn advance(&self, _index: usize, _bytes: u64) {}
    /// The layer is ready; `how` is `packed`, `cached`, …
    fn layer_done(&self, _index: usize, _how: &str) {}
    /// A new phase of the whole: `assembling`, …
    fn phase(&self, _text: &str) {}
    /// Something worth a line that does not stop the work.
    fn note(&self, _warning: &str) {}
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {}
