//go:build !linux

package harness

import "syscall"

// ownGroup puts a process into a group of its own. That it ends with the tests is up to their clean-up outside Linux.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
