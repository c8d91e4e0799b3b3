//! What needs neither a model nor a socket: what requests mean, who may know whom, and what the documents say.

mod circles;
mod contract;
mod contract_properties;
mod docs;
mod layout;
