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

// AnalystTables are the tables that an analyst reads rows of one tenant from; AnalystViews the views above them. Views are plain ones, which
// read with the rights of whoever asks, so that the filters of the tables hold in them and they need none of their own.
func AnalystTables() []string {
	var names []string
	for _, t := range allTables() {
		names = append(names, t.name)
	}
	return names
}

// AnalystViews are the views that an analyst may read; see [AnalystTables].
func AnalystViews() []string {
	tables := AnalystTables()
	return slices.DeleteFunc(TenantTables(), func(name string) bool { return slices.Contains(tables, name) })
}

// ErrUsersInConfiguration is returned by [Conn.CreateAnalyst] where the server takes its users from its configuration and not from SQL, as
// the embedded engine does.
var ErrUsersInConfiguration = errors.New("this ClickHouse keeps no users that SQL makes")

// codes of ClickHouse for a server without a place for users: ACCESS_STORAGE_READONLY, ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND.
var noUserStorage = []int32{495, 497, 514}

var userName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

// CreateAnalyst makes a user that reads the rows of one tenant and nothing else, on every node, or gives the user of that name a new
// password. The password is given as its SHA-256 in hex.
//
// A table with a row policy shows rows only to those whom a policy names (unless the server's users_without_row_policies_can_read_rows says
// otherwise), so our own user gets a policy for all rows first. The engine that the tests use refuses users: this part is reviewed, not run,
// here; the filters themselves are the same as in the configuration of the embedded engine, which is tested.
func (c *Conn) CreateAnalyst(ctx context.Context, name, passwordSHA256, tenant string) error {
	if !userName.MatchString(name) {
		return fmt.Errorf("analyst %q: use letters, digits and underscores, a letter first", name)
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

func (c *Conn) analystSQL(name, passwordSHA256, tenant string) []string {
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(tenant) + "'"
	statements := []string{
		"CREATE USER IF NOT EXISTS " + name,
		"ALTER USER " + name + " IDENTIFIED WITH sha256_hash BY '" + passwordSHA256 + "' SETTINGS readonly = 2",
		"REVOKE ALL ON *.* FROM " + name,
	}
	for _, t := range AnalystTables() {
		for _, table := range slices.Compact([]string{c.table(t), c.local(t)}) {
			statements = append(statements,
				"CREATE ROW POLICY IF NOT EXISTS counterfoil_service ON "+table+" FOR SELECT USING 1 TO CURRENT_USER",
				"CREATE ROW POLICY OR REPLACE counterfoil_"+name+" ON "+table+" FOR SELECT USING tenant = "+quoted+" TO "+name,
				"GRANT SELECT ON "+table+" TO "+name)
		}
	}
	for _, view := range AnalystViews() {
		statements = append(statements, "GRANT SELECT ON "+c.table(view)+" TO "+name)
	}
	return statements
}
