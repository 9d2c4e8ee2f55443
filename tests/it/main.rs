//! Socket and process tests, one binary. All traffic stays on 127.0.0.0/8.

mod bmc;
mod desk;
mod dhcp;
mod sim;
mod tftp;
