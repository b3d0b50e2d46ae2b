//! Keeps templates from being removed while sandboxes are created from them.
//!
//! A create looks a template up, pins it, and writes it into the new sandbox's record; a removal
//! marks it as retiring, looks for sandboxes whose record has it, and takes its name away. Each of
//! the two does its I/O without a lock. Whichever of pin and mark comes second sees the first, so no
//! sandbox is created from a template that goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::SandboxId;
use parking_lot::{Mutex, MutexGuard};

use super::TemplateId;

#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pinned: BTreeMap<SandboxId, TemplateId>,
    retiring: BTreeSet<TemplateId>,
}

/// Keeps a template until the record of the new sandbox does.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    sandbox: SandboxId,
}

/// Keeps sandboxes from being created from a template while this lives.
#[derive(Debug)]
pub(crate) struct Retiring {
    pins: Pins,
    template: TemplateId,
}

impl Pins {
    /// Pins a template for a sandbox that is being created; `None` if the template is retiring.
    pub(super) fn pin_template(&self, template: &TemplateId, sandbox: &SandboxId) -> Option<Pin> {
        let mut state = self.lock();
        if state.retiring.contains(template) {
            return None;
        }
        state.pinned.insert(sandbox.clone(), template.clone());
        Some(Pin {
            pins: self.clone(),
            sandbox: sandbox.clone(),
        })
    }

    /// Marks a template as retiring.
    ///
    /// # Errors
    /// The sandboxes that are being created from it.
    pub(super) fn mark_retiring(&self, template: &TemplateId) -> Result<Retiring, Vec<SandboxId>> {
        let mut state = self.lock();
        let pinned = state
            .pinned
            .iter()
            .filter(|(_, pinned)| *pinned == template);
        let users: Vec<SandboxId> = pinned.map(|(sandbox, _)| sandbox.clone()).collect();
        if !users.is_empty() {
            return Err(users);
        }
        state.retiring.insert(template.clone());
        Ok(Retiring {
            pins: self.clone(),
            template: template.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock().pinned.remove(&self.sandbox);
    }
}

impl Drop for Retiring {
    fn drop(&mut self) {
        self.pins.lock().retiring.remove(&self.template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_template_is_not_retired() {
        let pins = Pins::default();
        let template = TemplateId("sn-1".to_owned());
        let sandbox = SandboxId::random();
        let pin = pins.pin_template(&template, &sandbox).unwrap();
        let users = pins.mark_retiring(&template).unwrap_err();
        assert_eq!(users, std::slice::from_ref(&sandbox));
        drop(pin);
        let retiring = pins.mark_retiring(&template).unwrap();
        assert!(pins.pin_template(&template, &sandbox).is_none());
        drop(retiring);
        assert!(pins.pin_template(&template, &sandbox).is_some());
    }
}
