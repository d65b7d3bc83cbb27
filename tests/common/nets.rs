//! Hosts on a network of their own: a namespace each, joined by a bridge in one more, with cables that can be pulled.

use std::sync::atomic::{AtomicU32, Ordering};

use super::sh;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Some hosts (numbered from 1) on one bridge. Dropped, all of it is gone.
pub struct Net {
    prefix: String,
    hosts: u32,
}

impl Net {
    pub fn new(hosts: u32) -> Net {
        let prefix = format!("mct{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Net { prefix, hosts };
        let switch = net.switch();
        sh("ip", &["netns", "add", &switch]);
        sh("ip", &["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        sh("ip", &["-n", &switch, "link", "set", "br0", "up"]);
        for number in 1..=hosts {
            let (host, port) = (net.host(number), format!("port{number}"));
            sh("ip", &["netns", "add", &host]);
            sh("ip", &["-n", &host, "link", "set", "lo", "up"]);
            sh("ip", &["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host]);
            sh("ip", &["-n", &switch, "link", "set", &port, "master", "br0"]);
            sh("ip", &["-n", &switch, "link", "set", &port, "up"]);
            sh("ip", &["-n", &host, "address", "add", &format!("{}/24", net.ip(number)), "dev", "eth0"]);
            sh("ip", &["-n", &host, "link", "set", "eth0", "up"]);
        }
        net
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    /// The namespace of a host.
    pub fn host(&self, number: u32) -> String {
        format!("{}-{number}", self.prefix)
    }

    #[allow(clippy::unused_self)] // every network has the same addresses
    pub fn ip(&self, number: u32) -> String {
        format!("10.77.0.{number}")
    }

    /// Pulls the host's cable, or puts it back.
    pub fn cable(&self, number: u32, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        sh("ip", &["-n", &self.switch(), "link", "set", &format!("port{number}"), state]);
    }

    /// Makes what the host sends as slow as this, in megabits a second.
    pub fn slow(&self, number: u32, megabits: u32) {
        let (host, rate) = (self.host(number), format!("{megabits}mbit"));
        let shape = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "128k", "latency", "60ms"];
        sh("tc", &[&["-n", host.as_str()][..], &shape].concat());
    }

    /// Bytes that went over the host's cable so far, both ways, counted by the kernel.
    pub fn bytes(&self, number: u32) -> u64 {
        let text = sh("ip", &["-n", &self.host(number), "-s", "-j", "link", "show", "eth0"]);
        let links: serde_json::Value = serde_json::from_str(&text).expect("what ip says");
        let count = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().expect("a counter");
        count("rx") + count("tx")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in (1..=self.hosts).map(|number| self.host(number)).chain([self.switch()]) {
            let _ = std::process::Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}
