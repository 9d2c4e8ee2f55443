//! Do image, disk and firmware fit each other? Decided before anything is written.

use crate::decide::target::{Choice, choose_disk, fits};
use crate::domain::machine::Want;
use crate::domain::work::StepOutcome;
use crate::engine::execute::Context;
use crate::engine::steps::StepError;

pub(super) async fn check_target(context: &mut Context) -> Result<StepOutcome, StepError> {
    let Want::Deploy(spec) = &context.machine.want else {
        return Err(StepError::lasting(
            "nothing_wanted",
            format!("no deployment of {} is wanted any more", context.machine.name),
            "abort the run",
        ));
    };
    let Some(image) = context.engine.store.image(&spec.image).await? else {
        return Err(StepError::lasting(
            "image_unknown",
            format!("there is no image {}", spec.image),
            "import it (hostler image import), or abort and deploy another, then retry",
        ));
    };
    let Some((inventory, _)) = context.engine.store.inventory(context.machine.id).await? else {
        return Err(StepError::lasting(
            "no_inventory",
            format!("no inventory of {} is known", context.machine.name),
            "abort, forget the machine and let it come in again",
        ));
    };
    if let Err(why) = fits(&image, &context.machine, &inventory) {
        return Err(StepError::lasting("image_does_not_fit", why, "abort and deploy an image that fits this machine"));
    }
    match choose_disk(&inventory, image.raw_size_bytes, spec.disk.as_ref()) {
        Choice::Disk(disk) => Ok(StepOutcome::Done {
            note: format!("{} goes to {disk}", image.name),
            evidence: serde_json::json!({ "disk": disk, "image": image.name, "sha256": image.sha256, "raw_sha256": image.raw_sha256 }),
        }),
        Choice::None(why) => Err(StepError::lasting("no_disk", why, "choose another disk or image (abort, then deploy again)")),
    }
}
