//! MQTT against mosquitto and its clients, and byte by byte.
//!
//! Needs the programs `mosquitto`, `mosquitto_pub` and `openssl`: on Debian, the packages `mosquitto`,
//! `mosquitto-clients` and `openssl`.
mod broker;
mod certificates;
mod delivery;
mod doors;
mod intrusion;
mod listener;
mod outages;
mod raw;
mod source;
mod subscription;
mod tap;
