//! What users ask of sandboxes that there are, and what the answers mean for the model.

use std::sync::atomic::Ordering;

use api_types::PathRequest;
use bytes::Bytes;
use client::{Error, FileTarget};
use futures::TryStreamExt;

use super::known::{PAUSED, RUNNING};
use super::user::{Answer, CONTENT, Look, NETWORK, PATH, POWER, User, rules};

impl User {
    pub async fn power(&self, id: &str, to: u64) {
        let (Some(look), Some(change)) = (self.begin(id), self.change(id, POWER, to)) else {
            return;
        };
        let answer = match to {
            PAUSED => {
                self.asked(&format!("pause {id}"), self.rest.pause(id))
                    .await
            }
            _ => {
                self.asked(&format!("resume {id}"), self.rest.resume(id))
                    .await
            }
        };
        self.changed(id, POWER, change, &answer);
        self.heard("pause or resume", id, look, answer);
    }

    pub async fn set_network(&self, id: &str) {
        let value = self.scene.fresh();
        let (Some(look), Some(change)) = (self.begin(id), self.change(id, NETWORK, value)) else {
            return;
        };
        let answer = self
            .asked(
                &format!("rules {value} for {id}"),
                self.rest.set_network(id, &rules(value)),
            )
            .await;
        self.changed(id, NETWORK, change, &answer);
        self.heard("set_network", id, look, answer);
    }

    /// Wakes it, as every use does.
    pub async fn write(&self, id: &str) {
        let value = self.scene.fresh();
        let (Some(wake), Some(change)) = (
            self.change(id, POWER, RUNNING),
            self.change(id, CONTENT, value),
        ) else {
            return;
        };
        let text = Bytes::from(value.to_string());
        let data = futures::stream::once(async { Ok(text) });
        let target = FileTarget {
            path: PATH.to_owned(),
            ..FileTarget::default()
        };
        let written = self
            .asked(
                &format!("write {value} to {id}"),
                self.rest.write_file(id, &target, data, None),
            )
            .await;
        self.changed(id, POWER, wake, &written);
        self.changed(id, CONTENT, change, &written);
        if let Answer::Refused(error) = written {
            self.judge("write", id, &error);
        }
    }

    pub async fn read(&self, id: &str) {
        let (Some(look), Some(wake)) = (self.begin(id), self.change(id, POWER, RUNNING)) else {
            return;
        };
        let answer = self.asked(&format!("read {id}"), self.content(id)).await;
        self.changed(id, POWER, wake, &answer);
        match answer {
            Answer::Done(value) => drop(self.scene.note(id, |known, now| {
                if !known.content.may_be(value, look.from, now) {
                    let may_be = known.content.seen(look.from, now);
                    self.scene
                        .violation(format!("{id} has {value} and may have {may_be:?}"));
                }
            })),
            Answer::Refused(error) => self.judge("read", id, &error),
            Answer::Nothing => {}
        }
    }

    /// 0 where nothing was written yet.
    async fn content(&self, id: &str) -> Result<u64, Error> {
        let place = PathRequest {
            path: PATH.to_owned(),
            user: None,
        };
        let read = async {
            self.rest
                .read_file(id, &place)
                .await?
                .try_collect::<Vec<Bytes>>()
                .await
        };
        match read.await {
            Ok(pieces) => Ok(String::from_utf8_lossy(&pieces.concat())
                .parse()
                .expect("a number that was written")),
            Err(error) if error.is_not_found() && error.to_string().contains(PATH) => Ok(0),
            Err(error) => Err(error),
        }
    }

    pub async fn checkpoint(&self, id: &str) {
        let name = format!("c{}", self.scene.fresh());
        let Some(look) = self.begin(id) else { return };
        let made = self
            .asked(
                &format!("checkpoint {name} of {id}"),
                self.rest.create_checkpoint(id, Some(&name)),
            )
            .await;
        match made {
            Answer::Done(_) => drop(self.scene.note(id, |known, now| {
                let values = known.content.seen(look.from, now);
                known.checkpoints.insert(name, values);
            })),
            Answer::Refused(error) => self.judge("checkpoint", id, &error),
            Answer::Nothing => {}
        }
    }

    pub async fn remove_checkpoint(&self, id: &str) {
        let Some((name, _)) = self
            .scene
            .note(id, |known, _| known.checkpoints.pop_last())
            .flatten()
        else {
            return;
        };
        let removed = self.rest.delete_checkpoint(id, &name);
        if let Answer::Refused(error) = self
            .asked(&format!("remove checkpoint {name} of {id}"), removed)
            .await
        {
            self.judge("remove checkpoint", id, &error);
        }
    }

    pub async fn roll_back(&self, id: &str) {
        let begun = self.scene.note(id, |known, from| {
            let (name, values) = known.checkpoints.clone().pop_first()?;
            Some((
                name,
                Look {
                    from,
                    gone: known.removed,
                },
                known.content.begin_any(values, from),
            ))
        });
        let Some((name, look, change)) = begun.flatten() else {
            return;
        };
        let answer = self
            .asked(
                &format!("roll back {id} to {name}"),
                self.rest.rollback(id, &name),
            )
            .await;
        self.changed(id, CONTENT, change, &answer);
        let is_promised = self
            .scene
            .note(id, |known, _| known.checkpoints.contains_key(&name))
            == Some(true);
        match &answer {
            Answer::Refused(error) if error.is_not_found() && !is_promised => {}
            _ => self.heard("roll back", id, look, answer),
        }
    }

    pub async fn remove(&self, id: &str) {
        let before = self.scene.note(id, |known, _| {
            let before = known.clone();
            (known.removing, known.removals) = (true, known.removals + 1);
            before
        });
        let Some(before) = before else { return };
        let answer = self
            .asked(&format!("remove {id}"), self.rest.delete(id))
            .await;
        let is_only = self.scene.note(id, |known, _| known.removals == 1) == Some(true);
        match answer {
            Answer::Done(()) if before.removed => {
                self.scene.violation(format!("{id} is removed again"))
            }
            Answer::Refused(error) if error.is_not_found() && before.is_promised() && is_only => {
                self.scene
                    .violation(format!("remove {id}: {error:?}; {before:?}"));
            }
            Answer::Refused(error) if !error.is_not_found() => {
                self.judge("remove", id, &error);
                if error.to_string().contains("is noted") {
                    self.scene.note(id, |known, _| known.removed = true);
                }
            }
            Answer::Done(()) if self.scene.is_on_a_host(id) => {
                self.scene
                    .violation(format!("{id} is removed and still there"));
            }
            Answer::Done(()) | Answer::Refused(_) => {
                self.scene.note(id, |known, _| known.removed = true);
            }
            Answer::Nothing => {}
        }
    }

    pub async fn remove_listed(&self, pick: u64) {
        let Answer::Done(all) = self.asked("list", self.rest.list_all()).await else {
            return;
        };
        let Some(index) = usize::try_from(pick).unwrap().checked_rem(all.len()) else {
            return;
        };
        let id = &all[index].id;
        let is_known = self.scene.model().sandboxes.contains_key(id);
        if is_known {
            return self.remove(id).await;
        }
        self.scene.has_meddled.store(true, Ordering::SeqCst);
        self.scene.model().deleted_unseen.insert(id.clone());
        // Somebody may have been told of it meanwhile.
        self.scene.note(id, |known, _| known.removing = true);
        let removed = self
            .asked(
                &format!("remove {id}, whatever it is"),
                self.rest.delete(id),
            )
            .await;
        if let Answer::Refused(error) = removed
            && !error.is_not_found()
            && !self.is_bad_luck(&error)
        {
            self.scene.violation(format!("remove {id}: {error:?}"));
        }
    }

    /// At one sandbox, and at all.
    pub async fn look(&self, id: &str) {
        let Some(look) = self.begin(id) else { return };
        let answer = self
            .asked(&format!("look at {id}"), self.rest.get(id))
            .await;
        let is_promised = self.scene.note(id, |known, _| known.is_promised()) == Some(true);
        match &answer {
            Answer::Refused(error) if error.is_not_found() && !is_promised => {}
            _ => self.heard("look", id, look, answer),
        }
        let before = self.scene.model().sandboxes.clone();
        let Answer::Done(all) = self.asked("list", self.rest.list_all()).await else {
            return;
        };
        let after = self.scene.model().sandboxes.clone();
        for (id, known) in before {
            let is_listed = all.iter().any(|sandbox| sandbox.id == id);
            if is_listed && known.removed
                || !is_listed && known.is_promised() && after[&id].is_promised()
            {
                self.scene
                    .violation(format!("{id} is listed: {is_listed}; {known:?}"));
            }
        }
        self.scene.look_at_rows().await;
    }

    /// The last look at one that is promised: it can be used.
    pub async fn verify(&self, id: &str) {
        self.look(id).await;
        if self.scene.note(id, |known, _| known.is_alive()) != Some(true) {
            return;
        }
        self.power(id, RUNNING).await;
        self.read(id).await;
        self.write(id).await;
        self.roll_back(id).await;
        self.read(id).await;
        self.set_network(id).await;
        self.power(id, PAUSED).await;
        self.look(id).await;
    }
}
