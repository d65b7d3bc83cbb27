//! What services were asked to be, what their tenants are made from now, and the host's variables.

use std::collections::BTreeMap;

use rusqlite::{TransactionBehavior, params};

use super::{State, broken, foreign};
use crate::model::host::DataVolume;
use crate::model::running::Wanted;
use crate::model::{Result, ServiceName, TenantName};

impl State {
    /// What each service was asked to be; one that is not in it: nothing.
    pub fn wanted(&self, tenant: &TenantName) -> Result<BTreeMap<String, Wanted>> {
        let db = self.reader();
        let read = || -> rusqlite::Result<_> {
            let mut query = db.prepare_cached("SELECT service, wanted FROM services WHERE tenant = ?")?;
            let rows = query.query_map([tenant.as_str()], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?.parse().map_err(foreign)?))
            })?;
            rows.collect()
        };
        read().map_err(broken)
    }

    pub fn want<'s>(
        &self,
        tenant: &TenantName,
        services: impl IntoIterator<Item = &'s ServiceName>,
        wanted: Wanted,
    ) -> Result<()> {
        let mut db = self.writer();
        let write = || -> rusqlite::Result<()> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for service in services {
                let key = params![tenant.as_str(), service.as_str(), wanted.word()];
                match wanted {
                    Wanted::None => tx.execute("DELETE FROM services WHERE tenant = ?1 AND service = ?2", &key[..2])?,
                    _ => tx.execute(
                        "INSERT INTO services (tenant, service, wanted) VALUES (?1, ?2, ?3)
                         ON CONFLICT (tenant, service) DO UPDATE SET wanted = ?3",
                        key,
                    )?,
                };
            }
            tx.commit()
        };
        write().map_err(broken)
    }

    /// Gives a tenant another mcloud.yml. Volumes that it does not name any more are forgotten; their folders stay.
    pub fn reconfigure(
        &self,
        tenant: &TenantName,
        config: &str,
        env: Option<&str>,
        services: &[&str],
        volumes: &[DataVolume],
    ) -> Result<()> {
        let mut db = self.writer();
        let mut write = || -> rusqlite::Result<()> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let name = tenant.as_str();
            tx.execute("UPDATE tenants SET config = ?, env = ? WHERE name = ?", params![config, env, name])?;
            tx.execute("DELETE FROM volumes WHERE tenant = ? AND of_image = 0", [name])?;
            let gone = |table: &str| -> rusqlite::Result<Vec<String>> {
                let mut query = tx.prepare(&format!("SELECT DISTINCT service FROM {table} WHERE tenant = ?"))?;
                let all = query.query_map([name], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
                Ok(all.into_iter().filter(|service| !services.contains(&service.as_str())).collect())
            };
            for table in ["volumes", "services"] {
                for service in gone(table)? {
                    tx.execute(
                        &format!("DELETE FROM {table} WHERE tenant = ? AND service = ?"),
                        params![name, service],
                    )?;
                }
            }
            for volume in volumes {
                tx.execute(
                    "INSERT INTO volumes (tenant, service, path) VALUES (?, ?, ?)
                     ON CONFLICT (tenant, service, path) DO UPDATE SET of_image = 0",
                    params![name, volume.service.as_str(), volume.path.as_str()],
                )?;
            }
            tx.commit()
        };
        write().map_err(broken)
    }

    /// Remembers a volume that an image declares.
    pub fn add_volume_of_image(&self, tenant: &TenantName, volume: &DataVolume) -> Result<()> {
        let sql = "INSERT INTO volumes (tenant, service, path, of_image) VALUES (?, ?, ?, 1) ON CONFLICT DO NOTHING";
        let values = params![tenant.as_str(), volume.service.as_str(), volume.path.as_str()];
        self.writer().execute(sql, values).map(drop).map_err(broken)
    }

    /// The variables that every container of this host gets, by name.
    pub fn vars(&self) -> Result<Vec<(String, String)>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT name, value FROM vars ORDER BY name").map_err(broken)?;
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).and_then(Iterator::collect).map_err(broken)
    }

    /// Sets a variable, or takes it away. Whether that changed anything.
    pub fn set_var(&self, name: &str, value: Option<&str>) -> Result<bool> {
        let db = self.writer();
        let changed = match value {
            Some(value) => db.execute(
                "INSERT INTO vars (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2 WHERE value <> ?2",
                params![name, value],
            ),
            None => db.execute("DELETE FROM vars WHERE name = ?", [name]),
        };
        changed.map(|rows| rows > 0).map_err(broken)
    }
}
