"""Lottery tickets on your own data: `python -m papers.lottery_ticket fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.lottery_ticket.method.LotteryTicket")
