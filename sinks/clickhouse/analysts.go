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
// Why the filters are on the tables, and why the analyst has no right to those: see the package embedded, which writes the same users for the
// engine that takes them from its configuration. Views are made by migrate, again with each version, because SELECT * is fixed when a
// view is made, and by CreateAnalyst.

// AnalystDatabase is the name of the database of an analyst's views, and of the user with whose rights they read.
func AnalystDatabase(database, analyst string) string { return database + "_analyst_" + analyst }

// AnalystTables are the tables below everything that an analyst reads; each has a column tenant.
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
	for i := range c.nodes {
		for _, statement := range c.analystSQL(name, passwordSHA256, tenant) {
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

func (c *Conn) analystSQL(name, passwordSHA256, tenant string) []string {
	reader := AnalystDatabase(c.cfg.Database, name)
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(tenant) + "'"
	statements := []string{
		"CREATE USER IF NOT EXISTS " + reader + " HOST NONE",
		"REVOKE ALL ON *.* FROM " + reader,
	}
	for _, t := range AnalystTables() {
		for _, table := range slices.Compact([]string{c.table(t), c.local(t)}) {
			statements = append(statements,
				"CREATE ROW POLICY IF NOT EXISTS counterfoil_service ON "+table+" FOR SELECT USING 1 TO CURRENT_USER",
				"CREATE ROW POLICY OR REPLACE counterfoil_"+name+" ON "+table+" FOR SELECT USING tenant = "+quoted+" TO "+reader,
				"GRANT SELECT ON "+table+" TO "+reader)
		}
	}
	for _, view := range AnalystViews() {
		statements = append(statements, "GRANT SELECT ON "+c.table(view)+" TO "+reader)
	}
	statements = append(statements, c.viewSQL(reader)...)
	return append(statements,
		"CREATE USER IF NOT EXISTS "+name,
		"ALTER USER "+name+" IDENTIFIED WITH sha256_hash BY '"+passwordSHA256+"' DEFAULT DATABASE "+reader+" SETTINGS readonly = 2",
		"REVOKE ALL ON *.* FROM "+name,
		"GRANT SELECT ON "+reader+".* TO "+name)
}

// viewSQL makes the database of an analyst's views, and the views as they are in this version. It can be repeated, and run twice at once.
func (c *Conn) viewSQL(reader string) []string {
	statements := []string{"CREATE DATABASE IF NOT EXISTS " + reader}
	for _, name := range AnalystViews() {
		from := c.table(name)
		if name == buyingReport {
			from += buyingReportParameters
		}
		statements = append(statements, "CREATE OR REPLACE VIEW "+reader+"."+name+" DEFINER = "+reader+" SQL SECURITY DEFINER AS SELECT * FROM "+from)
	}
	return statements
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
		for _, statement := range c.viewSQL(reader) {
			if err := n.Exec(ctx, statement); err != nil {
				return fmt.Errorf("views of analysts: %s: %w", statement, err)
			}
		}
	}
	return nil
}
