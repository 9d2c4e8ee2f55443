//! Which systems, chassis and managers belong to the machine we were asked about.

use std::sync::Arc;

use serde_json::Value;

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::read::{self, Reader};
use crate::bmc::redfish::view;
use crate::bmc::redfish::walk::{Resource, Walk, tidy};

/// The resources of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The system that is switched and booted.
    pub system: String,
    /// All systems that are this machine: accelerator trays come as systems of their own beside the one that boots.
    pub systems: Vec<String>,
    pub chassis: Vec<String>,
    pub managers: Vec<String>,
    /// Switches between accelerators (NVLink) and PCIe switches.
    pub fabrics: Vec<String>,
}

/// How much a system looks like a machine: it can be reset, told what to boot, and has a BIOS. Accelerator baseboards, hypervisors
/// and DPUs that are listed beside it lack some of that.
fn rank(system: &Value) -> u8 {
    let is_virtual =
        system.get("SystemType").and_then(Value::as_str).is_some_and(|t| matches!(t, "Virtual" | "VirtuallyPartitioned" | "OS" | "DPU"));
    let boots = system.get("Boot").is_some_and(|b| b.get("BootSourceOverrideTarget").is_some() || b.get("BootOrder").is_some());
    let bios = system.get("BiosVersion").is_some_and(|v| !v.is_null()) || system.get("Bios").is_some();
    let points = [(view::reset_action(system).is_some(), 1), (boots, 2), (bios, 2), (!is_virtual, 1)];
    points.into_iter().filter(|(holds, _)| *holds).map(|(_, points)| points).sum()
}

/// The one system that looks most like a machine; `None` where several do, or none at all.
pub fn machine_of(systems: &[Resource]) -> Option<&Resource> {
    let best = systems.iter().map(|s| rank(&s.body)).max()?;
    let mut bests = systems.iter().filter(|s| rank(&s.body) == best);
    bests.next().filter(|_| bests.next().is_none())
}

/// The first of those that look most like a machine.
pub fn most_like_a_machine(systems: &[Resource]) -> Option<&Resource> {
    let best = systems.iter().map(|s| rank(&s.body)).max()?;
    systems.iter().find(|s| rank(&s.body) == best)
}

impl Redfish {
    /// The machine's resources, found once per connection.
    pub(super) async fn layout(&self, walk: &mut Walk<'_>) -> Result<Arc<Layout>, BmcError> {
        let system = self.system_path().await?;
        if let Some(layout) = self.kept_layout(&system) {
            return Ok(layout);
        }
        let layout = Arc::new(find(walk, &system, self.is_everything()).await?);
        // An incomplete look is not kept: the next call sees the rest.
        if walk.unread.is_empty() {
            self.keep_layout(Arc::clone(&layout));
        }
        Ok(layout)
    }
}

async fn find(walk: &mut Walk<'_>, system: &str, is_everything: bool) -> Result<Layout, BmcError> {
    let root = walk.root().await?;
    let systems = walk.follow_members(&root.body, "Systems").await?;
    // One machine behind this BMC, and it is ours: all that the BMC lists is its. Several (a shared front such as
    // sushy-emulator's): only what is linked from ours.
    let is_alone = is_everything || systems.len() <= 1 || machine_of(&systems).is_some_and(|m| tidy(&m.path) == tidy(system));
    if is_alone {
        let paths = |resources: Vec<Resource>| resources.into_iter().map(|r| r.path).collect::<Vec<_>>();
        let mut all = paths(systems);
        if !all.iter().any(|s| tidy(s) == tidy(system)) {
            all.insert(0, system.to_owned());
        }
        let chassis = paths(walk.follow_members(&root.body, "Chassis").await?);
        let managers = paths(walk.follow_members(&root.body, "Managers").await?);
        let fabrics = paths(walk.follow_members(&root.body, "Fabrics").await?);
        return Ok(Layout { system: system.to_owned(), systems: all, chassis, managers, fabrics });
    }
    let mut layout = Layout { system: system.to_owned(), systems: vec![system.to_owned()], ..Layout::default() };
    let Some(ours) = walk.get(system).await? else { return Ok(layout) };
    if let Some(links) = walk.reader(&ours).inside("Links") {
        layout.managers = links.links("ManagedBy").into_iter().map(tidy).collect();
        layout.chassis = links.links("Chassis").into_iter().map(tidy).collect();
    }
    // Enclosures within them, level by level; the list only grows and each is looked at once.
    let mut i = 0;
    while i < layout.chassis.len() && i < 256 {
        if let Some(chassis) = walk.get(&layout.chassis[i].clone()).await? {
            for inner in contained(&mut walk.reader(&chassis)) {
                if !layout.chassis.contains(&inner) {
                    layout.chassis.push(inner);
                }
            }
        }
        i += 1;
    }
    Ok(layout)
}

fn contained(r: &mut Reader) -> Vec<String> {
    r.inside("Links").map(|links| links.links("Contains").into_iter().map(tidy).collect()).unwrap_or_default()
}

/// The link in a field of a body, owned.
pub fn link(body: &Value, field: &str) -> Option<String> {
    body.get(field).and_then(read::link_of).map(str::to_owned)
}
