//! Tests over files, sockets and processes: one binary. All traffic stays on 127.0.0.0/8.

mod agent_link;
mod alerts;
mod api;
mod artifact;
mod bmc;
mod campaign;
mod collect;
mod demo;
mod desk;
mod dhcp;
mod joins;
mod lifecycle;
mod orders;
mod rack;
mod sim;
mod sim_control;
mod store;
mod support;
mod tftp;
mod trust;
mod ui;
mod vm_router;
