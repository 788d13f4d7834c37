//! Where the process is in its life.

/// Told by signals, and by a process that takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It serves.
    #[default]
    Serve,
    /// Another process serves in its place; what is open here may end by itself.
    HandedOver,
    /// It was told to stop; what is open may end by itself.
    Drain,
    /// It ends at once.
    End,
}

impl Phase {
    /// Whether nothing new is taken.
    #[must_use]
    pub fn stops(self) -> bool {
        match self {
            Self::Serve => false,
            Self::HandedOver | Self::Drain | Self::End => true,
        }
    }

    /// What a signal to stop makes of it: whoever is told twice means at once.
    #[must_use]
    pub fn told_to_stop(self) -> Self {
        match self {
            Self::Serve => Self::Drain,
            Self::HandedOver | Self::Drain | Self::End => Self::End,
        }
    }
}
