package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"
)

// An analyst reads the rows of one tenant, and nothing else that is in the tables, by three parts:
//
//   - the analyst's own user, who may read one database and no other, and writes nothing;
//   - that database ([AnalystDatabase]) with a view for each of [AnalystViews], of the same name, that reads the rows of that name here;
//   - the reader, a user of the database's name as whom nobody can log in. The views run with its rights, and it sees the rows of the tenant
//     only: it has a row filter on each of [AnalystTables].
//
// On a cluster a Distributed table asks the other servers not as the reader but as the analyst, so that the reader's filters would not hold
// there, and a filter on the Distributed table itself does nothing. So nothing that an analyst reads leads over our Distributed tables: the
// analyst's database has, on every server, a view with the reader's rights of each local table, Distributed tables above these views, and our
// views made once more above those. The cluster must have a secret (see needSecret).
//
// Why the filters are on the tables, and why the analyst has no right to those: see the package embedded, which writes the same users for the
// engine that takes them from its configuration. Views are made by migrate, again with each version, because SELECT * is fixed when a
// view is made, and by CreateAnalyst.

// AnalystDatabase is the name of the database of an analyst's views, and of the user with whose rights they read.
func AnalystDatabase(database, analyst string) string { return database + "_analyst_" + analyst }

// AnalystTables are the tables below everything that an analyst reads; each has a column tenant. On a cluster their names on each server end in
// _local.
func AnalystTables() []string {
	var names []string
	for _, t := range allTables() {
		names = append(names, t.name)
		for _, f := range t.followers {
			names = append(names, f.table)
		}
	}
	return names
}

// AnalystViews are the names that an analyst reads: every table and view with a column tenant, without the state tables, whose rows are
// read through views, and the report that takes the tenant as a parameter.
func AnalystViews() []string {
	tables := slices.DeleteFunc(TenantTables(), func(name string) bool { return strings.HasSuffix(name, "_state") })
	return append(tables, buyingReport)
}

// buyingReport is a view with parameters, which have to be named again in a view above it.
const (
	buyingReport           = "buying_report"
	buyingReportParameters = "(tenant = {tenant:String}, customer = {customer:Int64}, based_on = {based_on:String}, months_back = {months_back:Int32}, " +
		"weeks_until_available = {weeks_until_available:Int32}, today = {today:Date32})"
)

// ErrUsersInConfiguration is returned by [Conn.CreateAnalyst] where the server takes its users from its configuration and not from SQL, as
// the embedded engine does.
var ErrUsersInConfiguration = errors.New("this ClickHouse keeps no users that SQL makes")

// accessDenied is the code of ClickHouse for a right that the user lacks.
const accessDenied = 497

// noUserStorage are the codes of a server without a place for users: ACCESS_STORAGE_READONLY, ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND.
var noUserStorage = []int32{495, 514}

var userName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

// CreateAnalyst makes a user that reads the rows of one tenant and nothing else, with its views, on every node, or gives the user of that
// name a new password. The password is given as its SHA-256 in hex.
//
// A table with a row policy shows rows only to those whom a policy names (unless the server's users_without_row_policies_can_read_rows says
// otherwise), so our own user gets a policy for all rows first. The engine that the tests use refuses users: this part is reviewed, not run,
// here; the same users and filters in the configuration of that engine, and the views, are tested.
func (c *Conn) CreateAnalyst(ctx context.Context, name, passwordSHA256, tenant string) error {
	if !userName.MatchString(name) {
		return fmt.Errorf("analyst %q: use letters, digits and underscores, a letter first", name)
	}
	if prefix := AnalystDatabase(c.cfg.Database, ""); strings.HasPrefix(name, prefix) {
		return fmt.Errorf("analyst %q: names that begin with %s belong to us", name, prefix)
	}
	for i := range c.nodes {
		if err := c.isNobodyElse(ctx, &c.nodes[i], name); err != nil {
			return err
		}
	}
	if err := c.needSecret(ctx); err != nil {
		return err
	}
	for i := range c.nodes {
		statements, err := c.analystSQL(&c.nodes[i], name, passwordSHA256, tenant)
		if err != nil {
			return fmt.Errorf("create analyst %s: %w", name, err)
		}
		for _, statement := range statements {
			err := c.nodes[i].Exec(ctx, statement)
			var refused *ch.Exception
			if errors.As(err, &refused) && slices.Contains(noUserStorage, refused.Code) {
				return ErrUsersInConfiguration
			}
			if err != nil {
				return fmt.Errorf("create analyst %s on %s: %w", name, c.nodes[i].addr, err)
			}
		}
	}
	return nil
}

// isNobodyElse refuses the name of a user that is no analyst: our own would lose its rights.
func (c *Conn) isNobodyElse(ctx context.Context, n *node, name string) error {
	var user, analyst bool
	err := n.QueryRow(ctx, "SELECT countIf(name = ?) > 0, countIf(name = ?) > 0 FROM system.users", name, AnalystDatabase(c.cfg.Database, name)).Scan(&user, &analyst)
	if err != nil {
		return fmt.Errorf("look for a user %s on %s: %w", name, n.addr, err)
	}
	if user && !analyst {
		return fmt.Errorf("analyst %q: ClickHouse has a user of that name who is no analyst; choose another name", name)
	}
	return nil
}

// needSecret refuses a cluster whose servers ask each other as a user of their own: such a question may name any table, in a join, and would be
// answered with that user's rights. With a secret they ask as the user who asks. ClickHouse does not say which, but its running queries do.
func (c *Conn) needSecret(ctx context.Context) error {
	if c.cfg.Cluster == "" {
		return nil
	}
	for i := range c.nodes {
		n := &c.nodes[i]
		var named, asked []string
		if err := n.QueryRow(ctx, "SELECT groupUniqArray(user) FROM system.clusters WHERE cluster = ?", c.cfg.Cluster).Scan(&named); err != nil {
			return fmt.Errorf("look for the users of cluster %s on %s: %w", c.cfg.Cluster, n.addr, err)
		}
		if slices.Contains(named, c.cfg.User) {
			return fmt.Errorf("analysts on a cluster: the servers of cluster %s ask each other as %s, who is CLICKHOUSE_USER too, so that it cannot be seen "+
				"whether the cluster has a secret in remote_servers, without which analysts see other tenants: name another user there", c.cfg.Cluster, c.cfg.User)
		}
		err := n.QueryRow(ctx, fmt.Sprintf("SELECT groupUniqArray(user) FROM clusterAllReplicas('%s', system.processes) WHERE initial_query_id = queryID() AND NOT is_initial_query",
			c.cfg.Cluster)).Scan(&asked)
		if err != nil {
			return fmt.Errorf("ask cluster %s from %s: %w", c.cfg.Cluster, n.addr, err)
		}
		for _, user := range asked {
			if user != c.cfg.User {
				return fmt.Errorf("analysts on a cluster: server %s asks others as %s, and analysts would see what that user sees: give cluster %s a <secret> in remote_servers on every server",
					n.addr, user, c.cfg.Cluster)
			}
		}
	}
	return nil
}

func (c *Conn) analystSQL(n *node, name, passwordSHA256, tenant string) ([]string, error) {
	reader := AnalystDatabase(c.cfg.Database, name)
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(tenant) + "'"
	statements := []string{
		"CREATE USER IF NOT EXISTS " + reader + " HOST NONE",
		"REVOKE ALL ON *.* FROM " + reader,
	}
	for _, t := range AnalystTables() {
		table := c.local(t)
		statements = append(statements,
			"CREATE ROW POLICY IF NOT EXISTS counterfoil_service ON "+table+" FOR SELECT USING 1 TO CURRENT_USER",
			"CREATE ROW POLICY OR REPLACE counterfoil_"+name+" ON "+table+" FOR SELECT USING tenant = "+quoted+" TO "+reader,
			"GRANT SELECT ON "+table+" TO "+reader)
	}
	if c.cfg.Cluster == "" {
		for _, view := range AnalystViews() {
			statements = append(statements, "GRANT SELECT ON "+c.table(view)+" TO "+reader)
		}
	}
	views, err := c.viewSQL(n, reader)
	if err != nil {
		return nil, err
	}
	return append(append(statements, views...),
		"CREATE USER IF NOT EXISTS "+name,
		"ALTER USER "+name+" IDENTIFIED WITH sha256_hash BY '"+passwordSHA256+"' DEFAULT DATABASE "+reader+" SETTINGS readonly = 2",
		"REVOKE ALL ON *.* FROM "+name,
		"GRANT SELECT ON "+reader+".* TO "+name), nil
}

// viewSQL makes the database of an analyst's views, and the views as they are in this version. It can be repeated, and run twice at once.
func (c *Conn) viewSQL(n *node, reader string) ([]string, error) {
	statements := []string{"CREATE DATABASE IF NOT EXISTS " + reader}
	definer := " DEFINER = " + reader + " SQL SECURITY DEFINER AS SELECT * FROM "
	if c.cfg.Cluster != "" {
		more, err := c.clusterViewSQL(n, reader, definer)
		return append(statements, more...), err
	}
	for _, name := range AnalystViews() {
		from := c.table(name)
		if name == buyingReport {
			from += buyingReportParameters
		}
		statements = append(statements, "CREATE OR REPLACE VIEW "+reader+"."+name+definer+from)
	}
	return statements, nil
}

// clusterViewSQL makes an analyst's own chain from the tables of each server to the views of all.
func (c *Conn) clusterViewSQL(n *node, reader, definer string) ([]string, error) {
	own := func(name string) string { return reader + ".`" + name + "`" }
	migrations, err := Migrations()
	if err != nil {
		return nil, err
	}
	var views []string
	final := map[string]bool{} // tables that views read with FINAL
	for _, m := range migrations {
		all, err := c.renderAs(n, own, m.texts...)
		if err != nil {
			return nil, fmt.Errorf("migration %04d_%s: %w", m.Number, m.Name, err)
		}
		for _, s := range all {
			s = strings.Replace(s, "CREATE VIEW IF NOT EXISTS ", "CREATE OR REPLACE VIEW ", 1)
			if strings.HasPrefix(s, "CREATE OR REPLACE VIEW ") || strings.HasPrefix(s, "DROP VIEW ") {
				views = append(views, s)
			}
		}
	}
	var statements []string
	for _, name := range AnalystTables() {
		for i, view := range views {
			// A view below cannot be read with FINAL: it reads its table so. All versions of a key lie on one server.
			if of := own(name) + " FINAL"; strings.Contains(view, of) {
				views[i], final[name] = strings.ReplaceAll(view, of, own(name)), true
			}
		}
		from, local := c.local(name), c.cfg.localName(name)
		if final[name] {
			from += " FINAL"
		}
		statements = append(statements,
			"CREATE OR REPLACE VIEW "+own(local)+definer+from,
			fmt.Sprintf("CREATE OR REPLACE TABLE %s AS %s ENGINE = Distributed('%s', '%s', '%s')", own(name), own(local), c.cfg.Cluster, reader, local))
	}
	return append(statements, views...), nil
}

// migrateAnalysts makes the views of every analyst that a node knows.
func (c *Conn) migrateAnalysts(ctx context.Context, n *node) error {
	rows, err := n.Query(ctx, "SELECT name FROM system.users WHERE startsWith(name, ?)", AnalystDatabase(c.cfg.Database, ""))
	var refused *ch.Exception
	if errors.As(err, &refused) && refused.Code == accessDenied {
		return nil // whoever may not see users has not made any
	}
	if err != nil {
		return fmt.Errorf("look for analysts: %w", err)
	}
	defer rows.Close()
	var readers []string
	for rows.Next() {
		var reader string
		if err := rows.Scan(&reader); err != nil {
			return fmt.Errorf("look for analysts: %w", err)
		}
		readers = append(readers, reader)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look for analysts: %w", err)
	}
	for _, reader := range readers {
		statements, err := c.viewSQL(n, reader)
		if err != nil {
			return fmt.Errorf("views of analysts: %w", err)
		}
		for _, statement := range statements {
			if err := n.Exec(ctx, statement); err != nil {
				return fmt.Errorf("views of analysts: %s: %w", statement, err)
			}
		}
	}
	return nil
}
