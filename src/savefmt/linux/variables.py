"""Types of kernel variables that BTF lacks, since it has per-CPU variables only.

The table has the variables that scripts of analysts and the helpers of drgn ask for.
"""

from __future__ import annotations

from savefmt.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable: its type, and the releases that have it.

    Attributes
    ----------
    name, type : str
        As in the source.
    since, until : str
        First release with it, and first one without; empty: always, and still.
    """

    name: str
    type: str
    since: str = ""
    until: str = ""


_ROWS = (
    # Processes
    Variable("init_task", "struct task_struct"),
    Variable("init_mm", "struct mm_struct"),
    Variable("init_pid_ns", "struct pid_namespace"),
    Variable("init_user_ns", "struct user_namespace"),
    Variable("init_uts_ns", "struct uts_namespace"),
    Variable("init_nsproxy", "struct nsproxy"),
    Variable("init_css_set", "struct css_set"),
    Variable("root_task_group", "struct task_group"),
    Variable("userspace_init_fs", "struct fs_struct", "7.0"),
    # The system
    Variable("linux_banner", "char [512]"),
    Variable("saved_command_line", "char *"),
    Variable("prb", "struct printk_ringbuffer *", "5.10"),
    Variable("log_buf", "char *", "", "5.10"),
    Variable("log_buf_len", "u32", "", "5.10"),
    Variable("log_first_idx", "u32", "3.5", "5.10"),
    Variable("log_next_idx", "u32", "3.5", "5.10"),
    Variable("tk_core", "struct {}", "3.16", "6.17"),
    Variable("jiffies_64", "u64"),
    Variable("nr_cpu_ids", "unsigned int"),
    Variable("__cpu_online_mask", "struct cpumask", "4.5"),
    Variable("__cpu_possible_mask", "struct cpumask", "4.5"),
    Variable("__cpu_present_mask", "struct cpumask", "4.5"),
    Variable("__per_cpu_offset", "unsigned long [8192]"),
    Variable("modules", "struct list_head"),
    Variable("btf_modules", "struct list_head", "5.11"),
    Variable("iomem_resource", "struct resource"),
    # Memory
    Variable("vmemmap_base", "unsigned long", "4.9"),
    Variable("page_offset_base", "unsigned long", "4.7"),
    Variable("vmalloc_base", "unsigned long", "4.7"),
    Variable("max_pfn", "unsigned long"),
    Variable("_totalram_pages", "atomic_long_t", "5.0"),
    Variable("node_data", "struct pglist_data *[1024]"),
    Variable("contig_page_data", "struct pglist_data"),
    Variable("slab_caches", "struct list_head"),
    Variable("vmap_area_root", "struct rb_root", "", "6.9"),
    Variable("swap_info", "struct swap_info_struct *[32]"),
    # Files
    Variable("super_blocks", "struct list_head"),
    Variable("mount_hashtable", "struct hlist_head *"),
    Variable("chrdevs", "struct char_device_struct *[255]"),
    Variable("block_class", "struct class"),
    Variable("socket_file_ops", "struct file_operations"),
    Variable("ns_file_operations", "struct file_operations"),
    # Networks
    Variable("init_net", "struct net"),
    Variable("net_namespace_list", "struct list_head"),
    Variable("tcp_hashinfo", "struct inet_hashinfo"),
    Variable("udp_table", "struct udp_table"),
)

VARIABLES = {row.name: row for row in _ROWS}
"""By name."""
